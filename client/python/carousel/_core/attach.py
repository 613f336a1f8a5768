"""The client's side of Attach: sessions over as many streams as it takes. Events in, effects out.

The application sees only its outputs. After a stream's end, the next stream binds each lane again, sends
the inputs again that the server lacks, and asks for the outputs that were missed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np

from carousel._error_bases import CarouselError, ClientClosedError, ConnectionLostError
from carousel._errors import SessionBusyError, SessionClosedError
from carousel._version import __version__
from carousel_protos.v1 import carousel_pb2 as pb

from .addresses import Addresses
from .answers import Answers
from .bindings import Bindings
from .blocks import ask_again, check_fits, sent_row_bytes
from .effects import Effects
from .journal import Journal
from .lane import Lane, Leaving
from .lifecycle import LaneEvent, LanePhase
from .link import Links
from .restoring import replay, restore
from .retry import RetryPolicy
from .routing import Routing
from .statistics import ClientStatistics
from .steps import Steps
from .tickets import BindTicket, Rows, StepTicket, UnbindTicket

BindTarget = str | pb.OpenSessionRequest


def attach_time() -> int:
    """Unix time in units of 2**14 ns, about 16 µs: what fits above the 16 bits that count Binds."""
    return time.time_ns() >> 14


class AttachCore:
    """One client. Not safe for several threads by itself: the client around it holds a lock.

    Every method takes one event and returns what is to be done about it. Streams are named by the address
    of their server. The core asks for each with `Effects.connect` and expects `connected`. Then each
    `broken` says when to connect again, if at all.
    """

    def __init__(
        self,
        addresses: Addresses,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
        *,
        rng: random.Random | None = None,
        attach_id: Callable[[], int] = attach_time,
    ) -> None:
        """`attach_id` names attachments: below 2**48, and growing from one client to the next.

        `addresses` are the servers. Others may change and read them too.
        """
        rng = rng or random.Random()  # noqa: S311 - jitter only
        self._addresses = addresses
        self._links = Links(policy, rng, follows=addresses.several)
        self._routing = Routing(self._links, addresses)
        self._bindings = Bindings(self._links, self._routing, attach_id)
        self._steps = Steps(self._links, self._bindings)
        self._answers = Answers(self._links, addresses, self._routing, self._bindings, self._steps)

    def statistics(self) -> ClientStatistics:
        """Counts so far."""
        return ClientStatistics.of(self._links.counters)

    # -- the connections

    @property
    def next_due_s(self) -> float | None:
        """When `due` has something to do; None: never, as things are."""
        return self._bindings.next_due_s

    def connected(self, address: str) -> Effects:
        """A stream was opened. Says Hello, and binds every lane that is looked for there."""
        if self._links.closed is None:
            link = self._links.of(address)
            link.opened()
            name = f"carousel-python/{__version__}"
            link.send(hello=pb.Hello(client=name, follows_moves=self._links.follows))
            for lane in list(link.lanes.values()):
                self._answers.bind(lane)
        return self._links.take_effects()

    def receive(self, address: str, response: pb.AttachResponse, now_s: float) -> Effects:
        """A message came.

        Raises:
            ProtocolViolationError: it makes no sense here; the stream cannot be trusted any more.
            CarouselError: a retryable refusal that names no session. The stream is to be broken off with
                it, because only a new binding of each session shows what the server did not take.
        """
        self._links.now_s = now_s
        self._answers.receive(self._links.of(address), response)
        return self._links.take_effects(self._bindings.next_due_s)

    def broken(self, address: str, error: CarouselError, now_s: float) -> Effects:
        """A stream has ended, or could not be opened.

        Its lanes wait for the next one, each for reconnect_s. If the server could not be reached or will
        stop, those that can move are bound at other servers. If the policy mends nothing, or the error
        cannot pass, they end with it.
        """
        if self._links.closed is not None:
            return self._links.take_effects()
        link = self._links.of(address)
        drained = link.draining or error.reason == "DRAINING"
        comes_back = link.greeted and not drained
        link.lost(now_s)
        if not comes_back:
            self._addresses.failed(address, now_s)
        for lane in list(link.lanes.values()):
            self._lost(lane, error, drained=drained, comes_back=comes_back)
        self._end_overdue()
        if link.lanes:
            link.reopen(error)
        else:
            link.rest()
        return self._links.take_effects(self._bindings.next_due_s)

    def _lost(self, lane: Lane, error: CarouselError, *, drained: bool, comes_back: bool) -> None:
        """The stream of a lane has ended."""
        known = lane.link.welcomed or lane.facts.bound
        mends = self._links.mends and (error.retryable or isinstance(error, ConnectionLostError))
        if mends and known and self._ends_with_its_stream(lane):
            self._steps.end(lane, SessionClosedError("closed here"))
            return
        goes_on = mends and not comes_back and self._routing.lost(lane, drained=drained)
        if not (goes_on or (mends and known)):
            self._steps.end(lane, error)
            return
        self._bindings.cut_off(lane, error, drained=drained)
        if goes_on:
            self._answers.bind(lane)

    def tidy(self) -> Effects:
        """The addresses may have changed. Streams to servers that are not known end if no lane has them."""
        self._links.leave(self._addresses.known)
        return self._links.take_effects()

    def due(self, now_s: float) -> Effects:
        """The instant of `wake_at_s` has come: binds lanes again, or gives them up."""
        self._links.now_s = now_s
        self._end_overdue()
        for lane in self._bindings.due():
            if lane.phase is LanePhase.HELD:
                self._bindings.fence(lane)
            else:
                if lane.link.draining:
                    self._routing.refused(lane, None)
                self._answers.bind(lane)
        return self._links.take_effects(self._bindings.next_due_s)

    def close(self, error: CarouselError) -> Effects:
        """The client is closed. All that waits ends with `error`, and later calls raise it."""
        self._links.close(error)
        for lane in list(self._bindings.lanes.values()):
            self._steps.end(lane, error)
        return self._links.take_effects()

    def _ends_with_its_stream(self, lane: Lane) -> bool:
        """Whether a lane was given back, and nothing of it is to be closed or owed any more."""
        leaving = lane.leaving
        if leaving is None:
            return False
        return not (self._bindings.was_asked_for(lane) and (leaving.close or lane.owes))

    def _end_overdue(self) -> None:
        for lane, error in self._bindings.overdue():
            self._steps.abandon(lane, error)

    # -- what callers ask for

    def bind(
        self,
        target: BindTarget,
        epoch_floor: int = 0,
        journal: Journal | None = None,
        *,
        address: str = "",
        now_s: float | None = None,
    ) -> tuple[BindTicket, Effects]:
        """Binds an existing session by its id, or a new one. Continues where its journal ends.

        `address` is the server that is asked first, if it is known. `now_s` is the instant, where that of the
        last event is too old to choose a server.
        """
        self._links.check_open()
        self._links.now_s = self._links.now_s if now_s is None else now_s
        session_id = target if isinstance(target, str) else target.session_id
        lane = self._bindings.new_lane(session_id, address)
        lane.facts.epoch = epoch_floor
        lane.binding = ticket = BindTicket(lane)
        lane.opens = None if isinstance(target, str) else target
        if journal is not None:
            restore(journal, lane)
            self._bindings.rename(lane, journal.attach_id)
        self._bindings.bind(lane)
        return ticket, self._links.take_effects()

    def give_up(
        self, ticket: BindTicket | None, journal: Journal | None, *, owned: bool
    ) -> Effects:
        """Gives up a binding that has no waiter any more. A session with a journal stays open.

        Without a ticket, `bind` has refused it. The journal is then still the caller's.
        """
        if ticket is not None:
            return self.unbind(ticket.lane, close=owned and journal is None)[1]
        if journal is not None:
            journal.close()
        return Effects()

    def submit(
        self,
        lanes: Sequence[Lane],
        inputs: Rows,
        output_row_bytes: int,
        timeout_s: float | None = None,
        places: dict[int, int] | None = None,
        resets: Rows | None = None,
    ) -> tuple[StepTicket, Effects]:
        """Takes uint8[n, steps, row bytes] as the next steps of n sessions; sends what fits.

        `resets` are those of the steps, uint8[n, steps].

        Raises:
            CarouselError: a session is gone, or one step is too large a message; nothing was taken.
        """
        self._check(lanes)
        row_bytes = max(sent_row_bytes(inputs, resets), output_row_bytes)
        check_fits(lanes, row_bytes)
        ticket = StepTicket(lanes, inputs, output_row_bytes, timeout_s, places, resets)
        for place, lane in enumerate(lanes):
            lane.enqueue(ticket, place)
        self._steps.flush([ticket])
        return ticket, self._links.take_effects()

    def replay(self, lane: Lane, output_row_bytes: int) -> tuple[StepTicket | None, Effects]:
        """Asks for the outputs that were computed before the session was bound here, if any."""
        self._check([lane])
        cursors, journal = lane.cursors, lane.journal
        ticket: StepTicket | None = None
        if journal is not None and journal.unread:
            ticket, complete = replay(journal, lane, output_row_bytes)
            if complete:
                self._links.end(ticket)
        elif cursors.unread:
            inputs = np.zeros((1, cursors.unread, 0), np.uint8)
            ticket = StepTicket([lane], inputs, output_row_bytes, None)
            cursors.received -= cursors.unread
            ticket.first_seqs[0] = cursors.received + 1
            ticket.sent_steps, cursors.unread = cursors.unread, 0
            lane.tickets.appendleft(ticket)
            if journal is not None:
                journal.move_to(cursors.received)
            if lane.listens:  # else it is asked as soon as the session is bound again
                ask_again(lane.link, lane)
        return ticket, self._links.take_effects()

    def taken(self, lane: Lane, seq: int) -> Effects:
        """The application has what it got up to output `seq`, and will not want that again."""
        if lane.journal is not None:
            lane.journal.take(seq)
        return Effects()  # what an event before has left is for the next one

    def unbind(self, lane: Lane, *, close: bool) -> tuple[UnbindTicket | None, Effects]:
        """Gives a session back, and closes it if asked to. None if it is gone already.

        A durable session is given back only when all that was received of it is durable.
        """
        ticket = UnbindTicket(lane)
        if lane.phase is LanePhase.UNDONE and not close:
            lane.advance(LaneEvent.REPORT)
            ticket.error = lane.error
            self._links.end(ticket)
            return ticket, self._links.take_effects()
        if self._links.closed is not None or lane.gone or lane.leaving is not None:
            return None, self._links.take_effects()
        lane.leaving = Leaving(close, ticket)
        if lane.journal is not None and close:
            lane.journal.close_session()
        self._steps.fail_from(lane, 0, SessionClosedError("closed here while steps waited"))
        if self._bindings.was_asked_for(lane):
            self._answers.leave(lane)
        else:
            self._steps.end(lane, SessionClosedError("closed here"))
        return ticket, self._links.take_effects()

    def generation_begins(self, lane: Lane) -> int:
        """A generation is about to be asked for in the session: the first_seq that makes it repeatable.

        0 where it is not known; then it is asked for once. Steps are still to be answered, or another
        generation runs or was left, and the next Bound has not said how far that one came.

        Raises:
            CarouselError: the session is gone.
        """
        self._check([lane])
        generations, cursors = lane.generations, lane.cursors
        moving = generations.running > 0 or generations.left
        generations.running += 1
        in_flight = lane.tickets or cursors.sent > cursors.received
        return 0 if in_flight or moving else cursors.next_seq

    def generated(self, lane: Lane, applied: int | None) -> Effects:
        """A generation has run in the session; `applied` is its last step, None if unknown."""
        lane.generations.running = max(lane.generations.running - 1, 0)
        in_flight = lane.cursors.sent > lane.cursors.received
        if lane.gone or lane.leaving is not None:
            return self._links.take_effects()
        if applied is None or in_flight:
            lane.generations.left = True
            if lane.phase is LanePhase.BOUND:
                self._bindings.fence(lane)
            if in_flight:
                busy = (
                    "steps were sent while the session was generating; "
                    "session.info() tells which ran"
                )
                self._steps.fail_from(lane, 0, SessionBusyError(busy))
        else:
            lane.move_to(applied)
            if lane.binds:
                lane.advance(LaneEvent.OVERTAKE)
            # The server ends a generation only when its steps are durable; the notice may be lost.
            lane.durable_at(applied if lane.cursors.tracks_durable else 0)
        return self._links.take_effects()

    def _check(self, lanes: Sequence[Lane]) -> None:
        """Raises the error of a client, or of a lane, that takes nothing more."""
        self._links.check_open()
        for lane in lanes:
            if lane.error is not None:
                raise lane.error
            if lane.leaving is not None:
                raise ClientClosedError(f"session {lane.session_id} was closed here")
