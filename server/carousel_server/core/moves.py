"""Moves: the commands that give sessions to other replicas, and the words for what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from .errors import CarouselError
from .futures import Internal, WithoutReply, WithReply
from .types import SessionRef


class Hold(IntEnum):
    """How the client of a bound session learns that the session has left its replica."""

    NONE = 0
    """No sink has bound the session."""
    CALLS = 1
    """A door of single calls. It fetches the session for the next call."""
    STREAM = 2
    """A stream whose client stays with this replica. It gets an Unbound, and binds again."""
    FOLLOWER = 3
    """A stream whose client follows to another replica. It gets a Moved."""


class Why(StrEnum):
    """Why sessions are handed over."""

    ASKED = "asked"
    """Another replica has asked for the session."""
    DRAIN = "drain"
    """This replica is about to stop."""
    REBALANCE = "rebalance"
    """Another replica is the session's owner."""


class Handed(StrEnum):
    """What became of a hand-over."""

    MOVED = "moved"
    """The session is released."""
    KEPT = "kept"
    """A client uses it here. It stays."""
    GONE = "gone"
    """It is not on its row, or about to leave it."""
    FAILED = "failed"
    """The store did not take all that has run in time. It stays."""


@dataclass(slots=True)
class HandOver(Internal, WithReply[Handed]):
    """Gives a session of the store to the replica that asked for it, unless a stream or generation has it.

    What has run reaches the store before the session is released. Steps that wait are dropped.

    Args:
        ref: the session.
        address: of the replica that asks; "" if unknown.
        take_over: also where a stream or a generation has it.
    """

    ref: SessionRef
    address: str
    take_over: bool = False
    reply: Future[Handed] = field(default_factory=Future)


class MovedAway(NamedTuple):
    """What a `MoveAway` has done.

    Attributes:
        moved: sessions released, for each address of the last `SetOwners`.
        left: sessions that could be moved and are still here.
    """

    moved: Sequence[int]
    left: int


@dataclass(slots=True)
class MoveAway(Internal, WithReply[MovedAway]):
    """Hands over sessions whose owner is another replica, each to its owner. Answered when all have left.

    Args:
        why: DRAIN or REBALANCE. A rebalance spares generations, and streams that do not follow.
        most: how many at most.
        budgets: how many at most to each address of the last `SetOwners`; empty for no bound.
    """

    why: Why
    most: int
    budgets: Sequence[int] = ()
    reply: Future[MovedAway] = field(default_factory=Future)


@dataclass(slots=True)
class SetOwners(Internal, WithoutReply):
    """Names the replicas that own sessions, and which of them is this one.

    Args:
        addresses: of the replicas that accept sessions.
        own: the address of this one; "" if it owns none.
    """

    addresses: Sequence[str]
    own: str


@dataclass(slots=True)
class Released(Internal):
    """The store has released sessions that left their rows. `tell` notifies those who wait for that."""

    tell: Callable[[], None]

    def refuse(self, _error: CarouselError) -> None:
        """Tells all the same: the engine ends, and the sessions are released."""
        self.tell()
