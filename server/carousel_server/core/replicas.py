"""What the replicas of one store tell each other through it: announcements, and requests for sessions.

A replica announces itself with each renewal of its lease. It asks the holder of a session for it by the
holder's *mailbox*. The holder hands the session over, or answers that it keeps it. Mailboxes are bounded, and
what is in them expires. A request that is lost is repeated by the client's next try.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .errors import CarouselError
from .futures import WithReply
from .types import SessionKey


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a replica tells the others.

    Attributes:
        address: where clients and other replicas reach it, as host:port. "" is not announced.
        accepting: True if it takes new sessions. False while it drains.
        sessions: how many sessions are resident there, of all models.
    """

    address: str
    accepting: bool = True
    sessions: int = 0


UNANNOUNCED = Announcement("", accepting=False)
"""Of a replica whose address is not known yet."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A live replica of the store: its name, and its last announcement."""

    name: str
    said: Announcement


class Holder(NamedTuple):
    """The live replica that holds a session.

    Attributes:
        name: its name.
        address: its advertised address. "" where it has not announced one.
        is_own: True if it is the replica that asked.
    """

    name: str
    address: str
    is_own: bool


class Asked(NamedTuple):
    """A request of another replica for a session that this one holds.

    Attributes:
        key: which session.
        take_over: hand it over even if a stream has it.
        by: advertised address of the replica that asks. Clients of the session find it there afterwards.
    """

    key: SessionKey
    take_over: bool
    by: str


OWNER = "owner"
"""Metadata of SESSION_HELD: the holder's advertised address. It is missing where that is unknown."""


class Held(CarouselError):  # noqa: N818 - the name of a state
    """SESSION_HELD by another live replica. Beyond the server's process it is a plain CarouselError.

    Attributes:
        holder: the holder's name, as `ReplicaPort.ask_for` needs it.
        address: its advertised address. "" where that is unknown.
        kept: True if the holder answered a recent request for this session that it keeps it.
    """

    def __init__(
        self, key: SessionKey, left_s: float, holder: str, *, address: str = "", kept: bool = False
    ) -> None:
        """`left_s`: how long the holder's lease lasts unless it is renewed, in seconds."""
        super().__init__(
            "SESSION_HELD",
            f"session {key.id!r} is held by another replica",
            metadata={OWNER: address} if address else None,
            retry_after_s=left_s,
        )
        self.holder = holder
        self.address = address
        self.kept = kept


class Replicas(Protocol):
    """The part of a store by which replicas find each other. It raises STORE_UNAVAILABLE as `Store`."""

    def renew(self, said: Announcement = UNANNOUNCED) -> bool:
        """Extends this replica's leases by lease_ttl_s, and announces it.

        Returns:
            False if they had expired. Other replicas may hold the sessions, so all must be released.
        """

    def replicas(self) -> Sequence[Replica]:
        """All live replicas that have announced an address, this one included, sorted by name."""

    def ask_for(self, key: SessionKey, holder: str, *, take_over: bool, by: str) -> None:
        """Puts a request into a holder's mailbox. If the mailbox is full, the request is dropped."""

    def ask_for_all(self, asked: Sequence[AskFor], by: str) -> None:
        """As `ask_for`, several requests."""
        for one in asked:
            self.ask_for(one.key, one.holder, take_over=one.take_over, by=by)

    def asked(self, limit: int) -> Sequence[Asked]:
        """Takes at most `limit` requests from this replica's mailbox, the oldest first."""

    def keep(self, keys: Sequence[SessionKey]) -> None:
        """Answers that this replica keeps sessions: for some KEPT_S `Held.kept` is True.

        Ignores sessions that it does not hold.
        """


MAIL_MOST = 4096
"""Most requests in a mailbox."""
MAIL_S = 2.0
"""How long a request stays in a mailbox."""
KEPT_S = 2.0
"""How long an answer of `keep` is visible."""


# -- requests to the store's thread


@dataclass(slots=True)
class AskFor(WithReply[None]):
    """`Replicas.ask_for`, by this replica's advertised address."""

    key: SessionKey
    holder: str
    take_over: bool
    reply: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class Keep(WithReply[None]):
    """`Replicas.keep`."""

    keys: Sequence[SessionKey]
    reply: Future[None] = field(default_factory=Future)


__all__ = [
    "KEPT_S",
    "MAIL_MOST",
    "MAIL_S",
    "OWNER",
    "UNANNOUNCED",
    "Announcement",
    "AskFor",
    "Asked",
    "Held",
    "Holder",
    "Keep",
    "Replica",
    "Replicas",
]
