"""The seam to the store: what is kept of a session, and what a store can be asked.

A *store* is blocking and knows nothing of engines. One thread stands in front of it (`StorePort`): it takes
requests from any thread into a bounded queue, runs them in order, commits all snapshots that wait as one
group, and settles each request's future.

Rule R4 of the protocol lives in the store: a commit is one atomic compare. The epoch must equal the stored
one, else FENCED; the seq must not fall, else STALE. (At an equal seq the state is the same, and what is newer
is who has bound the session and what was acknowledged.)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from .types import Durability


class SessionKey(NamedTuple):
    """A session's name: unique in a store."""

    tenant: str
    id: str


@dataclass(frozen=True, slots=True)
class NewSession:
    """What is written when a session is opened; never changed. Instants are Unix seconds."""

    model: str
    durability: Durability
    idle_ttl_s: float
    seed: int
    created_at_unix_s: float


class First(NamedTuple):
    """The snapshot that a session is opened with: of a copy; a new one has none."""

    seq: int = 0
    snapshot: bytes = b""


NO_SNAPSHOT = First()

HEAD_BYTES = 2048
"""The beginning of a snapshot that comes with a session's facts; it names the weights."""


@dataclass(frozen=True, slots=True)
class Record:
    """One session as the store has it.

    Attributes:
        key, session: its name, and what it was opened with.
        epoch: of the newest activation.
        seq: last step that is in the snapshot; 0 before the first commit.
        snapshot: bytes as `state.snapshot` makes them; empty before the first commit, and where only
            the facts were asked for.
        last_used_unix_s: of the newest commit, release or activation; it expires idle_ttl_s later.
        head: the first HEAD_BYTES of the snapshot, where only the facts were asked for.
        held: True while a live replica holds it, this one included.
        created: True if the acquire that returned this has opened it.
    """

    key: SessionKey
    session: NewSession
    epoch: int
    seq: int
    snapshot: bytes
    last_used_unix_s: float
    held: bool = True
    created: bool = False
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class Commit:
    """A snapshot to be kept in place of the last one."""

    key: SessionKey
    epoch: int
    seq: int
    snapshot: bytes
    last_used_unix_s: float


class Verdict(Enum):
    """What became of a commit."""

    DONE = "done"
    FENCED = "fenced"
    """A newer activation exists, or the session has ended: the sender no longer owns it."""
    STALE = "stale"
    """The store has a later seq of the same epoch: this commit was overtaken."""


class Outcome(NamedTuple):
    """A commit's verdict, and what the store holds after it (0, 0 if nothing)."""

    verdict: Verdict
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """How full a store is. -1 where it cannot tell."""

    sessions: int
    bytes: int


class Store(Protocol):
    """Where sessions outlive the server. Used by one thread; every call may block.

    A fault of the medium (no space, no connection, damage of the whole file) raises CarouselError
    STORE_UNAVAILABLE: nothing is known of what was under way, and the caller may ask again.

    Attributes:
        name: for logs and metrics: "memory", "sqlite", "redis".
        levels: what it can promise; a subset of ASYNC, SYNC, SYNC_FSYNC.
        lease_ttl_s: how long a lease lives without `renew`; infinity if only one process can use it.
    """

    name: str
    levels: frozenset[Durability]
    lease_ttl_s: float

    def acquire(
        self,
        key: SessionKey,
        *,
        epoch_floor: int,
        new: NewSession | None,
        first: First = NO_SNAPSHOT,
    ) -> Record:
        """Activates a session: a new epoch, max(stored, epoch_floor) + 1, held by this replica.

        Repeating it, also by the replica that holds the session, takes another epoch (R3). A session
        held by another live replica is refused.

        Args:
            key: which session.
            epoch_floor: highest epoch that its client has seen (R13).
            new: opens the session if it is not there. One that ended within a day goes on with the
                epochs it had, so that a commit from its former life stays fenced.
            first: what it is opened with, in the same transaction.

        Raises:
            CarouselError: SESSION_NOT_FOUND, SESSION_EXPIRED or SESSION_CLOSED (where `new` is given,
                an ended session is opened anew); SESSION_HELD with the time that its lease lasts as
                retry_after_s; FIELD_INVALID for an epoch_floor that no session can have reached;
                STORE_UNAVAILABLE.
        """

    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        """Keeps snapshots, all in one transaction; outcomes in the same order.

        With `fsync` they are on the medium when it returns, else safe from the death of this process.
        """

    def release(self, held: Sequence[tuple[SessionKey, int, float]]) -> None:
        """Gives up the lease of sessions (key, epoch, last_used_unix_s); a wrong epoch is ignored."""

    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        """Ends a session: its snapshot goes, and why it ended ("SESSION_CLOSED", "SESSION_EXPIRED")
        is remembered for a day. FENCED if the epoch is not the stored one; repeating it is DONE.
        """

    def read(self, key: SessionKey) -> Record:
        """The facts of a session, with the head of its snapshot. Raises as `acquire`, never SESSION_HELD.

        One that nobody holds and that was idle for too long has expired, swept or not.
        """

    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        """A tenant's open sessions in the order of their ids behind `after`; facts as in `read`."""

    def renew(self) -> bool:
        """Keeps this replica's leases for lease_ttl_s more.

        Returns:
            False if they had run out, so that sessions may have been taken: all must be let go of.
        """

    def now_unix_s(self) -> float:
        """The store's time, by which sessions expire; from any thread. All instants it is told are in it.

        It passes evenly, and is the same for all replicas, whatever the clocks of their machines say.
        """

    def sweep(self, now_unix_s: float, limit: int) -> int:
        """Ends sessions that nobody holds and that were idle for longer than their idle_ttl_s; at most
        `limit`, and forgets reasons older than a day. Returns how many sessions it ended.
        """

    def statistics(self) -> StoreStatistics:
        """How full it is."""

    def usage(self, tenant: str) -> StoreStatistics:
        """A tenant's open sessions and the bytes of their snapshots; -1 where it cannot tell."""

    def close(self) -> None:
        """Gives up all leases of this replica and lets go of the medium. Idempotent."""


# -- requests: what the store's thread takes. The futures resolve on that thread.


@dataclass(slots=True)
class Acquire:
    """`Store.acquire`."""

    key: SessionKey
    epoch_floor: int = 0
    new: NewSession | None = None
    first: First = NO_SNAPSHOT
    reply: Future[Record] = field(default_factory=Future)


@dataclass(slots=True)
class CommitGroup:
    """`Store.commit`; groups that wait together become one transaction, with fsync if any asks."""

    commits: Sequence[Commit]
    fsync: bool
    reply: Future[list[Outcome]] = field(default_factory=Future)


@dataclass(slots=True)
class Release:
    """`Store.release`."""

    held: Sequence[tuple[SessionKey, int, float]]
    reply: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class Remove:
    """`Store.remove`."""

    key: SessionKey
    epoch: int
    reason: str
    reply: Future[Verdict] = field(default_factory=Future)


@dataclass(slots=True)
class Read:
    """`Store.read`."""

    key: SessionKey
    reply: Future[Record] = field(default_factory=Future)


@dataclass(slots=True)
class ListStored:
    """`Store.list`."""

    tenant: str
    after: str = ""
    limit: int = 1000
    model: str = ""
    reply: Future[list[Record]] = field(default_factory=Future)


StoreRequest = Acquire | CommitGroup | Release | Remove | Read | ListStored


class StorePort(Protocol):
    """The store, from any thread: requests go into a bounded queue in front of it."""

    @property
    def levels(self) -> frozenset[Durability]:
        """What it can promise; constant."""

    @property
    def lease_until_s(self) -> float:
        """Until when this replica may use the sessions that it holds, by its monotonic clock (R5)."""

    @property
    def lease_lost(self) -> int:
        """How often leases ran out before they were renewed: what was held before must be let go of."""

    def now_unix_s(self) -> float:
        """See `Store.now_unix_s`."""

    @property
    def fault(self) -> str:
        """Why it does not answer at present, fit for callers; "" while it does."""

    def submit(self, request: StoreRequest) -> None:
        """Queues a request; its future resolves on the store's thread, or fails with a CarouselError.

        Raises:
            CarouselError: QUEUE_FULL (never for CommitGroup, Release and Remove, of which each engine
                and session has one at most under way), or STORE_UNAVAILABLE after `stop`.
        """


__all__ = [
    "HEAD_BYTES",
    "NO_SNAPSHOT",
    "Acquire",
    "Commit",
    "CommitGroup",
    "First",
    "ListStored",
    "NewSession",
    "Outcome",
    "Read",
    "Record",
    "Release",
    "Remove",
    "SessionKey",
    "Store",
    "StorePort",
    "StoreRequest",
    "StoreStatistics",
    "Verdict",
]
