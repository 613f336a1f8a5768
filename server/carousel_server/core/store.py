"""The port of the store: the record of a session, and the requests to a store.

A *store* is blocking and does not depend on engines. One thread runs all requests to it (`StorePort`). They
come from any thread into a bounded queue and run in order. Snapshots that wait are committed as one group.
Each request has a future.

The store implements rule R4 of the protocol: a commit is one atomic compare. The epoch must equal the stored
one, else FENCED. The seq must not fall, else STALE. At an equal seq the state is the same, and only the
attachment and the acknowledgement can be newer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar, cast

from .errors import CarouselError
from .futures import WithReply
from .replicas import Announcement, Asked, AskFor, Held, Holder, Keep, Replica, Replicas
from .types import Durability, SessionKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewSession:
    """The facts of a session that are written when it is opened, and never change. Times are Unix seconds."""

    model: str
    durability: Durability
    idle_ttl_s: float
    seed: int
    created_at_unix_s: float


class First(NamedTuple):
    """The snapshot of a session that is opened as a copy. A new session has none."""

    seq: int = 0
    snapshot: bytes = b""


NO_SNAPSHOT = First()

HEAD_BYTES = 2048
"""Length of the snapshot's beginning that comes with a session's facts. It names the weights."""


@dataclass(frozen=True, slots=True)
class Record:
    """The store's record of one session.

    Attributes:
        key, session: its name, and the facts from its opening.
        epoch: of the newest activation.
        seq: last step in the snapshot. 0 before the first commit.
        snapshot: bytes as `rows.snapshot` makes them. Empty before the first commit, and where only
            the facts were requested.
        last_used_unix_s: time of the newest commit, release or activation. It expires idle_ttl_s later.
        head: the first HEAD_BYTES of the snapshot, where only the facts were requested.
        holder: the live replica that holds it, this one included. None if no replica does.
        created: True if the acquire that returned this record opened the session.
        whole: True if no step that was answered is missing: each holder has released it with all that it
            had run, or the session was opened now. Known only from an acquire.
    """

    key: SessionKey
    session: NewSession
    epoch: int
    seq: int
    snapshot: bytes
    last_used_unix_s: float
    holder: Holder | None
    created: bool = False
    head: bytes = b""
    whole: bool = False

    @property
    def held(self) -> bool:
        """True while a live replica holds it, this one included."""
        return self.holder is not None


@dataclass(frozen=True, slots=True)
class Commit:
    """A snapshot that replaces the last one."""

    key: SessionKey
    epoch: int
    seq: int
    snapshot: bytes
    last_used_unix_s: float


class Holding(NamedTuple):
    """A session that its holder releases.

    Attributes:
        key, epoch: which session, and the epoch in which it was held.
        last_used_unix_s: when it was last used, in the store's time.
        whole: the store has all steps that were ever answered. The next holder reads it as `Record.whole`.
    """

    key: SessionKey
    epoch: int
    last_used_unix_s: float
    whole: bool = False


class Verdict(Enum):
    """The result of a commit."""

    DONE = "done"
    FENCED = "fenced"
    """A newer activation exists, or the session has ended. The sender no longer owns it."""
    STALE = "stale"
    """The store has a later seq of the same epoch. A newer commit was faster."""
    UNANSWERED = "unanswered"
    """The session's shard of the store failed. The result is unknown, and the caller may repeat it."""


class Outcome(NamedTuple):
    """A commit's verdict, with epoch and seq in the store after it (0, 0 if there is no session)."""

    verdict: Verdict
    epoch: int
    seq: int


UNANSWERED = Outcome(Verdict.UNANSWERED, 0, 0)


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """How full a store is. -1 where that is unknown."""

    sessions: int
    bytes: int


class Store(Replicas, Protocol):
    """Stores sessions beyond the life of the server. One thread uses it, and every call may block.

    A fault of the medium (no space, no connection, damage of the whole file) raises CarouselError
    STORE_UNAVAILABLE. The result of the request is then unknown, and the caller may repeat it.

    Attributes:
        name: for logs and metrics: "memory", "sqlite", "redis".
        levels: durability that it can give, a subset of ASYNC, SYNC, SYNC_FSYNC.
        lease_ttl_s: how long a lease lasts without `renew`. Infinity if only one process can use it.
        most_acquires: how many sessions `acquire_all` takes.
    """

    name: str
    levels: frozenset[Durability]
    lease_ttl_s: float
    most_acquires: int = 1

    def acquire(
        self,
        key: SessionKey,
        *,
        epoch_floor: int,
        new: NewSession | None,
        first: First = NO_SNAPSHOT,
    ) -> Record:
        """Activates a session: this replica holds it in a new epoch, max(stored, epoch_floor) + 1.

        Each repetition gives another epoch (R3), also by the replica that holds the session. A session
        that another live replica holds is refused.

        Args:
            key: which session.
            epoch_floor: highest epoch that its client has seen (R13).
            new: opens the session if it is not there. One that ended within a day continues its
                epochs, so that a late commit of the former session stays fenced.
            first: the snapshot of a new session, in the same transaction.

        Raises:
            CarouselError: SESSION_NOT_FOUND, SESSION_EXPIRED or SESSION_CLOSED, unless `new` is given.
                Held (SESSION_HELD), with the remaining time of the lease as retry_after_s.
                FIELD_INVALID for an epoch_floor that no session can have reached. STORE_UNAVAILABLE.
        """

    def acquire_all(self, wanted: Sequence[Acquire]) -> Sequence[Record | CarouselError]:
        """As `acquire`, several sessions, each on its own: what `acquire` would return or raise for it."""
        answers: list[Record | CarouselError] = []
        for one in wanted:
            try:
                record = self.acquire(
                    one.key, epoch_floor=one.epoch_floor, new=one.new, first=one.first
                )
            except CarouselError as error:
                answers.append(error)
            else:
                answers.append(record)
        return answers

    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        """Commits snapshots in one transaction. Returns the outcomes in the same order.

        After it returns, they survive the death of this process, and with `fsync` a loss of power. UNANSWERED
        ones may not: their shard of the store failed, while others answered.
        """

    def release(self, held: Sequence[Holding]) -> None:
        """Releases the leases of sessions. Ignores those with a wrong epoch."""

    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        """Ends a session and deletes its snapshot.

        The reason ("SESSION_CLOSED" or "SESSION_EXPIRED") is remembered for a day. Returns FENCED if
        the epoch is not the stored one, and DONE for a repetition.
        """

    def read(self, key: SessionKey) -> Record:
        """The facts of a session, with the head of its snapshot. Raises as `acquire`, never SESSION_HELD.

        A session that no replica holds expires after its idle time, also before a sweep.
        """

    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        """A tenant's open sessions with ids after `after`, sorted by id, with facts as in `read`."""

    def now_unix_s(self) -> float:
        """The store's time, by which sessions expire. Any thread may call it.

        All times in requests are in this time. It is the same for all replicas, and does not jump when a
        machine's clock is set.
        """

    def sweep(self, now_unix_s: float, limit: int) -> int:
        """Ends at most `limit` sessions that no replica holds and whose idle_ttl_s has passed.

        It also forgets reasons older than a day. Returns how many sessions it ended.
        """

    def statistics(self) -> StoreStatistics:
        """How full the store is."""

    def usage(self, tenant: str) -> StoreStatistics:
        """Number of a tenant's open sessions, and the bytes of their snapshots. -1 where unknown."""

    def close(self) -> None:
        """Releases all leases of this replica and closes the medium. Idempotent."""


# -- requests to the store's thread, where their futures are resolved


@dataclass(slots=True)
class Acquire(WithReply[Record]):
    """`Store.acquire`."""

    key: SessionKey
    epoch_floor: int = 0
    new: NewSession | None = None
    first: First = NO_SNAPSHOT
    reply: Future[Record] = field(default_factory=Future)


@dataclass(slots=True)
class CommitGroup(WithReply[list[Outcome]]):
    """`Store.commit`. Groups that wait together become one transaction, with fsync if any requests it."""

    commits: Sequence[Commit]
    fsync: bool
    reply: Future[list[Outcome]] = field(default_factory=Future)


@dataclass(slots=True)
class Release(WithReply[None]):
    """`Store.release`."""

    held: Sequence[Holding]
    reply: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class Remove(WithReply[Verdict]):
    """`Store.remove`."""

    key: SessionKey
    epoch: int
    reason: str
    reply: Future[Verdict] = field(default_factory=Future)


@dataclass(slots=True)
class Read(WithReply[Record]):
    """`Store.read`."""

    key: SessionKey
    reply: Future[Record] = field(default_factory=Future)


@dataclass(slots=True)
class ListStored(WithReply[list[Record]]):
    """`Store.list`."""

    tenant: str
    after: str = ""
    limit: int = 1000
    model: str = ""
    reply: Future[list[Record]] = field(default_factory=Future)


StoreRequest = Acquire | CommitGroup | Release | Remove | Read | ListStored | AskFor | Keep


class StorePort(Protocol):
    """Access to the store from any thread, through a bounded queue of requests."""

    @property
    def levels(self) -> frozenset[Durability]:
        """The durability that it can give. Constant."""

    @property
    def lease_until_s(self) -> float:
        """When this replica's leases expire, by its monotonic clock (R5)."""

    @property
    def lease_lost(self) -> int:
        """How often leases have expired before a renewal. Sessions from before must then be released."""

    def now_unix_s(self) -> float:
        """See `Store.now_unix_s`."""

    @property
    def fault(self) -> str:
        """Why the store does not answer now, in words for callers. "" while it answers."""

    @property
    def replicas(self) -> Sequence[Replica]:
        """The live replicas as of the last renewal, this one included. See `Store.replicas`."""

    def later(self, delay_s: float) -> Future[None]:
        """A future that is settled on the store's thread after a pause, in seconds.

        It fails with CarouselError STORE_UNAVAILABLE if the store's thread ends.
        """

    def submit(self, request: StoreRequest) -> None:
        """Queues a request. Its future is resolved on the store's thread, or fails with a CarouselError.

        Raises:
            CarouselError: QUEUE_FULL, or STORE_UNAVAILABLE after `stop`. QUEUE_FULL is not raised for
                CommitGroup, Release and Remove: each engine or session has at most one in flight.
        """


__all__ = [
    "HEAD_BYTES",
    "NO_SNAPSHOT",
    "UNANSWERED",
    "Acquire",
    "Announcement",
    "AskFor",
    "Asked",
    "Commit",
    "CommitGroup",
    "First",
    "Held",
    "Holder",
    "Holding",
    "Keep",
    "ListStored",
    "NewSession",
    "Outcome",
    "Read",
    "Record",
    "Release",
    "Remove",
    "Replica",
    "SessionKey",
    "Store",
    "StorePort",
    "StoreRequest",
    "StoreStatistics",
    "Verdict",
]


def ask_store(store: StorePort, request: WithReply[T]) -> Future[T]:
    """Queues a request; returns its future. Never raises: a refusal of the queue is its answer."""
    try:
        store.submit(cast("StoreRequest", request))
    except CarouselError as error:
        request.refuse(error)
    return request.reply
