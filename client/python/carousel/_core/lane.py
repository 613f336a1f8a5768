"""One session of a client: its cursors, and what must be remembered of its steps, over all streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from carousel._error_bases import CarouselError
from carousel_protos.v1 import carousel_pb2 as pb

from .lifecycle import LaneEvent, LanePhase, advance
from .tickets import BindTicket, Rows, StepTicket, UnbindTicket

if TYPE_CHECKING:
    from .journal import Journal

UNTRACKED = (pb.DURABILITY_NONE, pb.DURABILITY_UNSPECIFIED)
"""Levels of sessions that live with their server only."""


class Kept(NamedTuple):
    """Inputs that were sent: steps first … last of a lane are rows 0 … of `block`, place `place`."""

    first: int
    last: int
    place: int
    block: pb.Block


class KeptOutputs(NamedTuple):
    """Outputs that came and are not durable: steps first … last of a lane are `rows[place]`."""

    first: int
    last: int
    place: int
    rows: Rows


@dataclass(slots=True)
class Leaving:
    """The application has given the session back.

    Attributes:
        close: the session is to be closed too.
        ticket: who waits for it.
    """

    close: bool
    ticket: UnbindTicket


@dataclass(slots=True)
class Trouble:
    """Why a lane is not bound, and for how long that is borne.

    Attributes:
        error: the last word of the server, or of gRPC.
        until_s: instant at which the lane ends with it.
        retry_at_s: when to bind again; None: as soon as there is a stream.
    """

    error: CarouselError
    until_s: float
    retry_at_s: float | None = None


@dataclass(slots=True, eq=False)
class Lane:
    """Cursors run as in carousel.proto: told <= received <= sent < next_seq.

    Attributes:
        handle: the session's number on every stream; never 0.
        attach_id: of the newest Bind; the next one has one more.
        opens: opens the session, if it is not there; None for one that exists.
        session_id: empty until the server has chosen one.
        bound_before: the server has known this session; if it does not any more, it was lost.
        window: most steps sent and not received.
        next_seq: seq of the next new step.
        sent: last step that was ever sent.
        received: last step whose output came, or was given up.
        heard: last step whose output came since the last Bound, where that is less than `received`; else
            None. A server that was restored from its store has not told more, and no more is confirmed.
        told: last step that the server knows to be received.
        durable: last step that the store has confirmed.
        tracks_durable: whether inputs are kept until they are durable, or only until received.
        epoch: highest seen.
        unread: outputs before `received` that the server still keeps and nobody here has read.
        tickets: all that have not ended here, in order of seq.
        unsent: those of them with steps that were not sent yet.
        kept: sent inputs that the server may still need, in order of seq.
        outputs: received outputs that are not durable, in order of seq, to be compared if they come again.
        alike: whether repeated rows are the same as those that came before.
        failing: the first step that was refused, and why, while earlier ones are still to be answered.
        resent: last step that was sent again since the last Bound: it had been accepted before.
        replaying: the server was asked for outputs again, and the first of them has not come.
        careful: outputs are looked at one session at a time: they may have come before, or are journaled.
        generations: how many run in the session; the server's cursors are theirs.
        adopts: a generation was left, so the server's next word on the cursors counts.
        trouble: why it is not bound, while that may pass.
        store_fault: why the server's store does not keep what has run, as long as it does not.
        tries: how often it was refused since it last got on.
        retried: a clash of attach ids was settled once.
        execution_class, former_class: how the server computes, and how it did before.
        identity: seed and instant of the opening; another session of the same id has others.
        phase: changed by `advance` only.
        error: why the lane is gone.
        binding: who waits for Bound.
        leaving: set once the application has given it back.
        journal: where inputs and outputs outlive this process.
    """

    handle: int
    attach_id: int
    opens: pb.OpenSessionRequest | None = None
    session_id: str = ""
    phase: LanePhase = LanePhase.WAITING
    bound_before: bool = False
    window: int = 1
    next_seq: int = 1
    sent: int = 0
    received: int = 0
    heard: int | None = None
    told: int = 0
    durable: int = 0
    tracks_durable: bool = False
    epoch: int = 0
    unread: int = 0
    tickets: deque[StepTicket] = field(default_factory=deque)
    unsent: deque[StepTicket] = field(default_factory=deque)
    kept: deque[Kept] = field(default_factory=deque)
    outputs: deque[KeptOutputs] = field(default_factory=deque)
    alike: Callable[[Rows, Rows], bool] | None = None
    failing: tuple[int, CarouselError] | None = None
    resent: int = 0
    replaying: bool = False
    careful: bool = False
    generations: int = 0
    adopts: bool = False
    trouble: Trouble | None = None
    store_fault: CarouselError | None = None
    tries: int = 0
    retried: bool = False
    execution_class: str = ""
    former_class: str = ""
    identity: tuple[int, float] = (0, 0.0)
    error: CarouselError | None = None
    binding: BindTicket | None = None
    leaving: Leaving | None = None
    journal: Journal | None = None

    @property
    def forgettable(self) -> int:
        """Last step whose input nobody will ask for again."""
        return min(self.received, self.durable) if self.tracks_durable else self.received

    @property
    def unrepeatable(self) -> int:
        """Last step whose output cannot come again: the store has it, and its input is not here any more."""
        return min(self.durable, self.kept[0].first - 1) if self.kept else self.durable

    @property
    def ackable(self) -> int:
        """Last step that may be confirmed: it was read here, and this activation has told it."""
        read = self.received - self.unread
        return read if self.heard is None else min(read, self.heard)

    @property
    def room(self) -> int:
        """How many more steps may be sent now."""
        base = self.forgettable
        if self.heard is not None:
            base = min(base, self.heard)
        return base + self.window - self.sent

    @property
    def owes(self) -> bool:
        """Outputs were received whose steps a crash of the server would undo."""
        return self.tracks_durable and self.durable < self.received and bool(self.kept)

    @property
    def listens(self) -> bool:
        """Whether outputs that come are its."""
        return self.phase is LanePhase.BOUND or self.phase is LanePhase.HELD

    @property
    def gone(self) -> bool:
        """Whether its life is over."""
        return self.phase is LanePhase.GONE or self.phase is LanePhase.UNDONE

    def advance(self, event: LaneEvent) -> None:
        """Changes the phase, as the table of `lifecycle` says."""
        self.phase = advance(self.phase, event)

    def enqueue(self, ticket: StepTicket, place: int) -> None:
        """Gives a ticket the next seqs."""
        ticket.first_seqs[place] = self.next_seq
        self.next_seq += ticket.steps
        self.unread = 0
        self.tickets.append(ticket)
        self.unsent.append(ticket)

    def take_facts(self, session: pb.Session) -> None:
        """What holds at each Bound, whatever was before."""
        self.bound_before = True
        self.session_id = session.id
        self.window = max(session.window_steps, 1)
        self.tracks_durable = session.durability not in UNTRACKED
        self.durable = session.durable
        self.store_fault = None
        self.epoch = session.epoch
        self.told = session.ack
        self.identity = identity_of(session)
        if self.execution_class not in ("", session.execution_class):
            self.former_class = self.execution_class
        self.execution_class = session.execution_class
        self.heard = None

    def start_from(self, session: pb.Session) -> None:
        """Takes the server's cursors; steps that wait are numbered anew behind them."""
        self.unread = session.applied - session.ack
        self.move_to(session.applied)

    def move_to(self, applied: int) -> None:
        """Goes on behind `applied`; nothing is on the way."""
        self.received = self.sent = applied
        self.next_seq = applied + 1
        self.heard = None
        self.kept.clear()
        self.outputs.clear()
        for ticket in self.unsent:
            ticket.first_seqs[ticket.places[self.handle]] = self.next_seq
            self.next_seq += ticket.steps
        if self.journal is not None:
            self.journal.move_to(applied)

    def forget(self) -> None:
        """Drops the inputs that nobody will ask for again, and outputs that cannot come again."""
        while self.kept and self.kept[0].last <= self.forgettable:
            self.kept.popleft()
        while self.outputs and self.outputs[0].last <= self.unrepeatable:
            self.outputs.popleft()

    def roll_back(self, seq: int) -> bool:
        """Un-sends the steps from `seq` on; true if later blocks are on the way, to be refused too."""
        more = bool(self.kept) and self.kept[-1].first > seq
        while self.kept and self.kept[-1].first >= seq:
            self.kept.pop()
        if self.kept and self.kept[-1].last >= seq:
            self.kept[-1] = self.kept[-1]._replace(last=seq - 1)
        self.sent = seq - 1
        self.resent = min(self.resent, self.sent)
        self.next_seq = seq
        self.unsent.clear()
        return more


def identity_of(session: pb.Session) -> tuple[int, float]:
    """What never changes of a session and is hardly the same for two."""
    return session.seed, session.created_at.seconds + session.created_at.nanos / 1e9
