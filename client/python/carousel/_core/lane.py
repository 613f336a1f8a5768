"""One session of a client, over all streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from carousel._error_bases import CarouselError
from carousel_protos.v1 import carousel_pb2 as pb

from .cursors import Cursors, StepLog
from .lifecycle import LaneEvent, LanePhase, advance
from .resets import NextReset
from .tickets import BindTicket, Rows, StepTicket, UnbindTicket

if TYPE_CHECKING:
    from .journal import Journal
    from .link import Link


class Intake(Enum):
    """How closely outputs are looked at."""

    PLAIN = auto()
    """They are new, so those of a whole batch are copied at once."""
    CHECKED = auto()
    """One session at a time: they may have come before, or are journaled."""
    REPLAYING = auto()
    """As CHECKED. The server was asked for outputs again, and the first of them has not come."""


@dataclass(slots=True)
class SessionFacts:
    """What the server has said of a session.

    Attributes:
        bound: it was bound. If the server does not know it any more, it was lost.
        epoch: highest seen.
        identity: seed and instant of the opening; another session of the same id has others.
        execution_class, former_class: how the server computes, and how it did before.
    """

    bound: bool = False
    epoch: int = 0
    identity: tuple[int, float] = (0, 0.0)
    execution_class: str = ""
    former_class: str = ""

    def take(self, session: pb.Session) -> None:
        """Takes what a Bound says."""
        self.bound, self.epoch, self.identity = True, session.epoch, identity_of(session)
        if self.execution_class not in ("", session.execution_class):
            self.former_class = self.execution_class
        self.execution_class = session.execution_class


@dataclass(slots=True)
class Generations:
    """Generations move the server's cursors.

    Attributes:
        running: how many run in the session.
        left: one was left, so the next Bound says how far it came.
    """

    running: int = 0
    left: bool = False


@dataclass(slots=True)
class Leaving:
    """The application has given the session back.

    Attributes:
        close: the session is to be closed too.
        ticket: of the caller that waits for it.
    """

    close: bool
    ticket: UnbindTicket


@dataclass(slots=True)
class Trouble:
    """Why a lane is not bound, and until when it may be so.

    Attributes:
        error: the last refusal of the server, or error of gRPC.
        until_s: instant at which the lane ends with it.
        retry_at_s: when to bind again; None: as soon as there is a stream.
    """

    error: CarouselError
    until_s: float
    retry_at_s: float | None = None


@dataclass(slots=True)
class Route:
    """How a lane looks for its session among several servers, from one Bound to the next.

    Attributes:
        take_over: the server that holds the session cannot be reached, so it is asked to hand it over.
        redirects: how many were followed.
        refused: addresses of servers that take nothing now.
        moved_at_s: when its server has handed the session over; None if it has not.
    """

    take_over: bool = False
    redirects: int = 0
    refused: set[str] = field(default_factory=set)
    moved_at_s: float | None = None


@dataclass(slots=True, eq=False)
class Lane:
    """A session: its phase, its cursors, and the callers that wait for it.

    Attributes:
        handle: the session's number on every stream; never 0.
        attach_id: of the newest Bind; the next one has one more.
        link: the stream to the server that has the session, or is asked for it.
        opens: opens the session, if it is not there; None for one that exists.
        session_id: empty until the server has chosen one.
        phase: changed by `advance` only.
        error: why the lane is gone.
        tickets: all that have not ended here, in order of seq.
        unsent: those of them with steps that were not sent yet.
        next_reset: whether the next new step starts from the initial state.
        failing: the first step that was refused, and why, while earlier ones are still to be answered.
        alike: whether repeated rows are the same as those that came before.
        trouble: why it is not bound, while that may pass.
        route: how it is looked for.
        store_fault: why the server's store does not keep what has run, as long as it does not.
        tries: how often it was refused since its last output.
        retried: a clash of attach ids was settled once.
        binding: of the caller that waits for Bound.
        leaving: set once the application has given it back.
        journal: where inputs and outputs outlive this process.
    """

    handle: int
    attach_id: int
    link: Link
    opens: pb.OpenSessionRequest | None = None
    session_id: str = ""
    phase: LanePhase = LanePhase.WAITING
    error: CarouselError | None = None
    facts: SessionFacts = field(default_factory=SessionFacts)
    cursors: Cursors = field(default_factory=Cursors)
    log: StepLog = field(default_factory=StepLog)
    tickets: deque[StepTicket] = field(default_factory=deque)
    unsent: deque[StepTicket] = field(default_factory=deque)
    next_reset: NextReset = field(default_factory=NextReset)
    failing: tuple[int, CarouselError] | None = None
    intake: Intake = Intake.PLAIN
    alike: Callable[[Rows, Rows], bool] | None = None
    generations: Generations = field(default_factory=Generations)
    trouble: Trouble | None = None
    route: Route = field(default_factory=Route)
    store_fault: CarouselError | None = None
    tries: int = 0
    retried: bool = False
    binding: BindTicket | None = None
    leaving: Leaving | None = None
    journal: Journal | None = None

    @property
    def owes(self) -> bool:
        """Outputs were received whose steps a crash of the server would undo."""
        cursors = self.cursors
        return (
            cursors.tracks_durable and cursors.durable < cursors.received and bool(self.log.inputs)
        )

    @property
    def binds(self) -> bool:
        """Whether a Bind is in flight."""
        return self.phase is LanePhase.BINDING or self.phase is LanePhase.OVERTAKEN

    @property
    def movable(self) -> bool:
        """Whether another server may have the session. One without a store lives with its server."""
        return not self.facts.bound or self.cursors.tracks_durable

    @property
    def may_ask(self) -> bool:
        """Whether it may be bound again now, here or elsewhere than at a server that drains."""
        return self.link.may_bind or (self.link.up and self.leaves_last)

    @property
    def leaves_last(self) -> bool:
        """Whether a server that drains may still run its steps, until it hands the session over."""
        return self.link.hands_over and self.movable

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
        ticket.first_seqs[place] = self.cursors.next_seq
        self.cursors.next_seq += ticket.steps
        self.cursors.unread = 0
        self.tickets.append(ticket)
        self.unsent.append(ticket)

    def take_facts(self, session: pb.Session) -> None:
        """Takes what holds at each Bound, whatever was before."""
        self.session_id = session.id
        self.store_fault = None
        self.facts.take(session)
        self.cursors.take(session)

    def start_from(self, session: pb.Session) -> None:
        """Takes the server's cursors; steps that wait are numbered behind them."""
        self.cursors.unread = session.applied - session.ack
        self.move_to(session.applied)

    def move_to(self, applied: int) -> None:
        """Goes on behind `applied`, with nothing in flight."""
        cursors = self.cursors
        cursors.move_to(applied)
        self.log.clear()
        for ticket in self.unsent:
            ticket.first_seqs[ticket.places[self.handle]] = cursors.next_seq
            cursors.next_seq += ticket.steps
        if self.journal is not None:
            self.journal.move_to(applied)

    def durable_at(self, seq: int) -> None:
        """The store has confirmed steps up to `seq`."""
        self.cursors.durable = max(self.cursors.durable, seq)
        if self.journal is not None:
            self.journal.durable_at(self.cursors.durable)

    def roll_back(self, seq: int) -> bool:
        """Un-sends the steps from `seq` on. True if later blocks are in flight, to be refused too."""
        self.cursors.roll_back(seq)
        self.unsent.clear()
        return self.log.cut(seq)


def identity_of(session: pb.Session) -> tuple[int, float]:
    """What never changes of a session and is hardly the same for two."""
    return session.seed, session.created_at.seconds + session.created_at.nanos / 1e9
