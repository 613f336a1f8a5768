"""One session on one stream: its cursors, and what must be remembered of its steps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from carousel._error_bases import CarouselError
from carousel_protos.v1 import carousel_pb2 as pb

from .tickets import BindTicket, StepTicket, UnbindTicket


class LanePhase(Enum):
    """Where a lane is in its life; `docs/guides/sdk.md` draws it."""

    BINDING = auto()
    BOUND = auto()
    FENCING = auto()
    """Unbound after a failure with more steps on the way, to be bound again when those are over."""
    CLOSING = auto()
    GONE = auto()


class Kept(NamedTuple):
    """Inputs that were sent: steps first … last of a lane are row `place` of `block`."""

    first: int
    last: int
    place: int
    block: pb.Block


@dataclass(slots=True, eq=False)
class Lane:
    """Cursors run as in carousel.proto: told <= received <= sent < next_seq.

    Attributes:
        handle: the session's number on the stream; 0 before the first binding.
        session_id: empty until the server has chosen one.
        window: most steps sent and not received.
        next_seq: seq of the next new step.
        sent: last step that was sent.
        received: last step whose output came, or was given up.
        told: last step that the server knows to be received.
        durable: last step that the store has confirmed.
        tracks_durable: whether inputs are kept until they are durable, or only until received.
        epoch: highest seen.
        unread: outputs before `received` that the server still keeps and nobody here has read.
        tickets: all that have not ended here, in order of seq.
        unsent: those of them with steps that were not sent yet.
        kept: sent inputs that the server may still need, in order of seq.
        failing: the first step that was refused, and why, while earlier ones are still to be answered.
        expected: last step that has run if all is well, while a fence is on the way.
        closes_after_fence: the session is to be closed once the fence on the way has come back.
        error: why the lane is GONE.
        binding: who waits for Bound.
        closing: who waits for Unbound.
    """

    handle: int
    session_id: str = ""
    phase: LanePhase = LanePhase.BINDING
    window: int = 1
    next_seq: int = 1
    sent: int = 0
    received: int = 0
    told: int = 0
    durable: int = 0
    tracks_durable: bool = False
    epoch: int = 0
    unread: int = 0
    tickets: deque[StepTicket] = field(default_factory=deque)
    unsent: deque[StepTicket] = field(default_factory=deque)
    kept: deque[Kept] = field(default_factory=deque)
    failing: tuple[int, CarouselError] | None = None
    expected: int | None = None
    closes_after_fence: bool = False
    error: CarouselError | None = None
    binding: BindTicket | None = None
    closing: UnbindTicket | None = None

    @property
    def forgettable(self) -> int:
        """Last step whose input nobody will ask for again."""
        return min(self.received, self.durable) if self.tracks_durable else self.received

    @property
    def room(self) -> int:
        """How many more steps may be sent now."""
        return self.forgettable + self.window - self.sent

    def enqueue(self, ticket: StepTicket, place: int) -> None:
        """Gives a ticket the next seqs."""
        ticket.first_seqs[place] = self.next_seq
        self.next_seq += ticket.steps
        self.unread = 0
        self.tickets.append(ticket)
        self.unsent.append(ticket)

    def start_from(self, session: pb.Session) -> None:
        """Takes the server's cursors; steps that wait are numbered anew behind them."""
        self.session_id = session.id
        self.window = max(session.window_steps, 1)
        self.durable = session.durable
        self.tracks_durable = session.durability not in (
            pb.DURABILITY_NONE,
            pb.DURABILITY_UNSPECIFIED,
        )
        self.epoch = max(self.epoch, session.epoch)
        self.told = session.ack
        self.unread = session.applied - session.ack
        self.move_to(session.applied)
        self.phase = LanePhase.BOUND

    def move_to(self, applied: int) -> None:
        """Goes on behind `applied`; nothing is on the way."""
        self.received = self.sent = applied
        self.next_seq = applied + 1
        self.kept.clear()
        for ticket in self.unsent:
            ticket.first_seqs[ticket.places[self.handle]] = self.next_seq
            self.next_seq += ticket.steps

    def forget(self) -> None:
        """Drops the inputs that nobody will ask for again."""
        while self.kept and self.kept[0].last <= self.forgettable:
            self.kept.popleft()

    def roll_back(self, seq: int) -> bool:
        """Un-sends the steps from `seq` on; true if later blocks are on the way, to be refused too."""
        more = bool(self.kept) and self.kept[-1].first > seq
        while self.kept and self.kept[-1].first >= seq:
            self.kept.pop()
        if self.kept and self.kept[-1].last >= seq:
            self.kept[-1] = self.kept[-1]._replace(last=seq - 1)
        self.sent = seq - 1
        self.next_seq = seq
        self.unsent.clear()
        return more
