"""The client's side of Attach: sessions over as many streams as it takes. Events in, effects out.

The application sees only its outputs. What a stream's end leaves open, the next one takes up: each lane
is bound again, its inputs that the server lacks are sent again, and outputs that were missed are asked for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto

import numpy as np

from carousel._error_bases import CarouselError, ClientClosedError, ConnectionLostError
from carousel._errors import SessionBusyError, SessionClosedError
from carousel._version import __version__
from carousel_protos.v1 import carousel_pb2 as pb

from .answers import IN_FLIGHT, Answers
from .blocks import ask_again, steps_per_message
from .effects import Effects
from .journal import Journal
from .lane import Lane, Leaving
from .lanes import ATTACH_BITS
from .lifecycle import LaneEvent, LanePhase
from .restoring import replay, restore
from .retry import RetryPolicy, backoff_s
from .statistics import ClientStatistics
from .tickets import BindTicket, Rows, StepTicket, UnbindTicket

BindTarget = str | pb.OpenSessionRequest


class _Link(Enum):
    OPENING = auto()
    """A stream is to be opened, soon or after a pause."""
    UP = auto()
    IDLE = auto()
    """There is no stream, and nobody needs one."""
    CLOSED = auto()


def attach_time() -> int:
    """Unix time in units of 2**14 ns, about 16 µs: what fits above the 16 bits that count Binds."""
    return time.time_ns() >> 14


class AttachCore(Answers):
    """One client. Not safe for several threads by itself: the client around it holds a lock.

    Every method tells of one event and returns what is to be done about it. A new core expects
    `connected`; then each `broken` says when to connect again, if at all.
    """

    def __init__(
        self,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
        *,
        rng: random.Random | None = None,
        attach_id: Callable[[], int] = attach_time,
    ) -> None:
        """`attach_id` names attachments: below 2**48, and growing from one client to the next."""
        super().__init__(policy, rng or random.Random(), attach_id)  # noqa: S311 - jitter only
        self._link = _Link.OPENING
        self._connections = 0
        self._closed: CarouselError | None = None

    def statistics(self) -> ClientStatistics:
        """Counts so far."""
        return ClientStatistics.of(self._counters)

    # -- the connection

    def connected(self) -> Effects:
        """A stream was opened. Says Hello, and binds every lane that lives."""
        if self._closed is not None:
            return Effects()
        self._link, self._up, self.draining = _Link.UP, True, False
        self._counters.reconnects += self._connections > 0
        self._connections += 1
        hello = pb.Hello(client=f"carousel-python/{__version__}")
        effects = Effects(send=[pb.AttachRequest(hello=hello)])
        for lane in list(self._lanes.values()):
            if lane.leaving is not None:
                self._leave(lane, effects)
            else:
                self._bind(lane, effects)
        return effects

    def broken(self, error: CarouselError, now_s: float) -> Effects:
        """The stream has ended, or could not be opened.

        Lanes wait for the next one, each for reconnect_s. If the policy mends nothing, or the error
        cannot pass, they end with it.
        """
        effects = Effects()
        if self._closed is not None:
            return effects
        self._now_s = now_s
        drained = self.draining or error.reason == "DRAINING"
        self._up = self.draining = False
        passes = error.retryable or isinstance(error, ConnectionLostError)
        for lane in list(self._lanes.values()):
            if passes and self._policy.mends and (self._welcomed or lane.bound_before):
                self._cut_off(lane, error, effects)
                if drained:
                    self._wait_from_now(lane)
            else:
                self._end_lane(lane, error, effects)
        self._end_impatient(effects)
        if not self._lanes:
            self._link, self._tries, self._welcomed = _Link.IDLE, 0, False
            return effects
        self._link = _Link.OPENING
        effects.reconnect_in_s = backoff_s(self._policy, self._tries, error, self._rng)
        effects.wake_at_s = self.next_due_s
        self._tries += 1
        return effects

    def due(self, now_s: float) -> Effects:
        """The instant of `wake_at_s` has come: binds lanes again, or gives them up."""
        self._now_s = now_s
        effects = Effects()
        self._end_impatient(effects)
        for lane in list(self._troubled.values()):
            retry_at_s = lane.trouble.retry_at_s if lane.trouble else None
            if retry_at_s is None or retry_at_s > now_s or not self._may_bind:
                continue
            assert lane.trouble is not None
            lane.trouble.retry_at_s = None
            if lane.phase is LanePhase.HELD:
                self._fence(lane, effects)
            elif lane.leaving is not None:
                self._leave(lane, effects)
            else:
                self._bind(lane, effects)
        effects.wake_at_s = self.next_due_s
        return effects

    def close(self, error: CarouselError) -> Effects:
        """The client is closed: all that waits ends with `error`, and so does what is asked later."""
        effects = Effects()
        self._closed = self._closed or error
        self._link, self._up = _Link.CLOSED, False
        for lane in list(self._lanes.values()):
            self._end_lane(lane, error, effects)
        return effects

    def _cut_off(self, lane: Lane, error: CarouselError, effects: Effects) -> None:
        """The lane's stream is gone."""
        leaving, opened = lane.leaving, lane.bound_before or lane.attach_id % (1 << ATTACH_BITS)
        if leaving is not None and not (opened and (leaving.close or lane.owes)):
            self._end_lane(lane, SessionClosedError("closed here"), effects)
            return
        lane.advance(LaneEvent.CUT_OFF)
        lane.replaying = False
        self._trouble(lane, error).retry_at_s = None

    def _end_impatient(self, effects: Effects) -> None:
        for lane in list(self._troubled.values()):
            trouble = lane.trouble
            if trouble is not None and trouble.until_s <= self._now_s:
                error = self._last_word(trouble, bound_before=lane.bound_before)
                self._abandon(lane, error, effects)

    # -- what callers ask for

    def bind(
        self, target: BindTarget, epoch_floor: int = 0, journal: Journal | None = None
    ) -> tuple[BindTicket, Effects]:
        """Binds an existing session by its id, or a new one; goes on where its journal ends."""
        self._check_open()
        lane = self._new_lane()
        lane.epoch = epoch_floor
        lane.binding = ticket = BindTicket(lane)
        if isinstance(target, str):
            lane.session_id = target
        else:
            lane.session_id, lane.opens = target.session_id, target
        if journal is not None:
            restore(journal, lane)
            lane.attach_id = self._major(journal.attach_id >> ATTACH_BITS) << ATTACH_BITS
        effects = Effects()
        self._bind(lane, effects)
        if self._link is _Link.IDLE:
            self._link, effects.reconnect_in_s = _Link.OPENING, 0.0
        return ticket, effects

    def submit(
        self,
        lanes: Sequence[Lane],
        inputs: Rows,
        output_row_bytes: int,
        timeout_s: float | None = None,
        places: dict[int, int] | None = None,
    ) -> tuple[StepTicket, Effects]:
        """Takes uint8[n, steps, row bytes] as the next steps of n sessions; sends what fits.

        Raises:
            CarouselError: a session is gone, or one step is too large a message; nothing was taken.
        """
        self._check_open()
        for lane in lanes:
            self._check_lane(lane)
        row_bytes = max(inputs.shape[2], output_row_bytes)
        steps_per_message(len(lanes), row_bytes, self._max_message_bytes)
        ticket = StepTicket(lanes, inputs, output_row_bytes, timeout_s, places)
        for place, lane in enumerate(lanes):
            lane.enqueue(ticket, place)
        effects = Effects()
        self._flush([ticket], effects)
        return ticket, effects

    def replay(self, lane: Lane, output_row_bytes: int) -> tuple[StepTicket | None, Effects]:
        """Asks for the outputs that were computed before the session was bound here, if any."""
        self._check_open()
        self._check_lane(lane)
        if lane.journal is not None and lane.journal.unread:
            told, complete = replay(lane.journal, lane, output_row_bytes)
            return told, Effects(ended=[told] if complete else [])
        if not lane.unread:
            return None, Effects()
        ticket = StepTicket([lane], np.zeros((1, lane.unread, 0), np.uint8), output_row_bytes, None)
        lane.received -= lane.unread
        ticket.first_seqs[0] = lane.received + 1
        ticket.sent_steps = lane.unread
        lane.unread = 0
        lane.tickets.appendleft(ticket)
        if lane.journal is not None:
            lane.journal.move_to(lane.received)
        effects = Effects()
        if lane.listens:  # else it is asked as soon as the session is bound again
            lane.replaying = lane.careful = True
            effects.send.append(ask_again(lane))
        return ticket, effects

    def taken(self, lane: Lane, seq: int) -> Effects:
        """The application has what it got up to output `seq`: it will not want that again."""
        if lane.journal is not None:
            lane.journal.take(seq)
        return Effects()

    def unbind(self, lane: Lane, *, close: bool) -> tuple[UnbindTicket | None, Effects]:
        """Gives a session back, and closes it if asked to. None if it is gone already.

        A durable session is given back only when all that was received of it is durable.
        """
        effects = Effects()
        if lane.phase is LanePhase.UNDONE and not close:
            lane.advance(LaneEvent.REPORT)
            told = UnbindTicket(lane)
            told.error = lane.error
            effects.ended.append(told)
            return told, effects
        if self._closed or lane.gone or lane.leaving is not None:
            return None, effects
        lane.leaving = Leaving(close, UnbindTicket(lane))
        ticket = lane.leaving.ticket
        if lane.journal is not None and close:
            lane.journal.close_session()
        self._fail_from(lane, 0, SessionClosedError("closed here while steps waited"), effects)
        if not lane.bound_before and lane.attach_id % (1 << ATTACH_BITS) == 0:
            self._end_lane(lane, SessionClosedError("closed here"), effects)  # never asked for
        else:
            self._leave(lane, effects)
        return ticket, effects

    def generation_begins(self, lane: Lane) -> int:
        """A generation is about to be asked for in the session: the first_seq that makes it repeatable.

        0 where steps are still to be answered, so that it is not known; then it is asked for once.

        Raises:
            CarouselError: the session is gone.
        """
        self._check_open()
        self._check_lane(lane)
        lane.generations += 1
        return 0 if lane.tickets or lane.sent > lane.received else lane.next_seq

    def generated(self, lane: Lane, applied: int | None) -> Effects:
        """A generation has run in the session; `applied` is its last step, None if unknown."""
        effects = Effects()
        lane.generations = max(lane.generations - 1, 0)
        if lane.gone or lane.leaving is not None:
            return effects
        if lane.sent > lane.received:
            lane.adopts = True
            if lane.phase is LanePhase.BOUND:
                self._fence(lane, effects)
            busy = (
                "steps were sent while the session was generating; session.info() tells which ran"
            )
            self._fail_from(lane, 0, SessionBusyError(busy), effects)
        elif applied is None:
            lane.adopts = True
            if lane.phase is LanePhase.BOUND:
                self._fence(lane, effects)
        else:
            lane.move_to(applied)
            if lane.phase in IN_FLIGHT:
                lane.advance(LaneEvent.OVERTAKE)
            if lane.tracks_durable:  # an end is told only when it is; the notice may have missed us
                lane.durable = max(lane.durable, applied)
            if lane.journal is not None:
                lane.journal.durable_at(lane.durable)
        return effects

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _check_lane(self, lane: Lane) -> None:
        if lane.gone:
            assert lane.error is not None
            raise lane.error
        if lane.leaving is not None:
            raise ClientClosedError(f"session {lane.session_id} was closed here")
