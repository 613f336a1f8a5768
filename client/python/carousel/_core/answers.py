"""What the server says, and what follows from it: one method for each kind of message."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from carousel._error_bases import CarouselError, ProtocolViolationError
from carousel._errors import (
    HandleNotBoundError,
    SessionClosedError,
    SessionNotFoundError,
    SupersededError,
)
from carousel_protos.v1 import carousel_pb2 as pb

from .blocks import acknowledgement, acks_of, ask_again
from .effects import Effects
from .faults import error_of
from .lane import Lane
from .lanes import ATTACH_BITS
from .lifecycle import LaneEvent, LanePhase
from .resume import not_found, obstacle, owed_blocks, take_up
from .retry import RetryPolicy
from .stepping import Stepping

PASSING = frozenset(
    (
        *("DRAINING", "STORE_UNAVAILABLE", "SESSION_HELD", "SESSION_PARKED", "LEASE_LOST"),
        "SLAB_FULL",  # it was parked, and every slot is busy just now
        "QUEUE_FULL",
    )
)
"""Refusals of steps that a durable session outlives: it goes on elsewhere, or later."""


IN_FLIGHT = (LanePhase.BINDING, LanePhase.OVERTAKEN)
"""A Bind is in flight."""

STORE_WAITS = "accepted"
"""Metadata of a STORE_UNAVAILABLE that refuses nothing: steps up to there were accepted, and wait for the
store.
"""


class Answers(Stepping):
    """Takes the server's messages."""

    def __init__(
        self, policy: RetryPolicy, rng: random.Random, attach_id: Callable[[], int]
    ) -> None:
        super().__init__(policy, rng, attach_id)
        self._tries = 0
        self._welcomed = False
        self._answers: dict[str, Callable[[Any, Effects], None]] = {
            "welcome": self._on_welcome,
            "bound": self._on_bound,
            "outputs": self._on_outputs,
            "failure": self._on_failure,
            "durable": self._on_durable,
            "drain": self._on_drain,
            "unbound": self._on_unbound,
        }

    def receive(self, response: pb.AttachResponse, now_s: float) -> Effects:
        """A message came.

        Raises:
            ProtocolViolationError: it makes no sense here; the stream cannot be trusted any more.
            CarouselError: a retryable refusal that names no session. The stream is to be broken off with
                it, because only a new binding of each session shows what the server did not take.
        """
        self._now_s = now_s
        effects = Effects()
        kind = response.WhichOneof("event")
        if kind is not None:  # a kind of a newer protocol is none of our business
            try:
                self._answers[kind](getattr(response, kind), effects)
            except (IndexError, ValueError) as error:
                raise ProtocolViolationError(f"a message of kind {kind}: {error}") from error
        if self._troubled:
            effects.wake_at_s = self.next_due_s
        return effects

    def _on_welcome(self, welcome: pb.Welcome, _effects: Effects) -> None:
        self._max_message_bytes = welcome.max_message_bytes or self._max_message_bytes
        self._welcomed = True
        self._tries = 0

    def _on_drain(self, _drain: pb.Drain, _effects: Effects) -> None:
        self._counters.drains += not self.draining
        self.draining = True

    # -- bindings

    def _on_bound(self, bound: pb.Bound, effects: Effects) -> None:
        lane, session = self._lanes.get(bound.handle), bound.session
        if lane is None:  # it was given up while its Bind was on the way
            unbind = pb.Unbind(handle=bound.handle)
            effects.send.append(pb.AttachRequest(unbind=unbind))
            return
        if lane.phase not in IN_FLIGHT:
            return
        if session.epoch < lane.epoch:
            raise ProtocolViolationError(
                f"session {session.id} is bound in epoch {session.epoch}, but {lane.epoch} was seen"
            )
        is_old = lane.phase is LanePhase.OVERTAKEN and session.applied < lane.sent
        lane.advance(LaneEvent.BOUND)
        if is_old:
            self._fence(lane, effects)
            return
        self._recovered(lane)
        if lane.bound_before:
            self._counters.rebinds += 1
            error = obstacle(lane, session)
            if error is not None:
                self._abandon(lane, error, effects)
                return
            take_up(lane, session)
        else:
            lane.take_facts(session)
            lane.start_from(session)
        if lane.journal is not None:
            lane.journal.bound(session, lane.attach_id)
        if lane.binding is not None:
            lane.binding.session = session
            effects.ended.append(lane.binding)
            lane.binding = None
        self._go_on(lane, session.applied, effects)

    def _go_on(self, lane: Lane, applied: int, effects: Effects) -> None:
        """R8: tells what is known, asks for outputs, sends inputs again; then what is new.

        Asking comes before sending, so that old outputs come before those of what is sent now.
        """
        effects.send.extend(acks_of([lane]))  # also if it leaves: what it owes must fit the window
        if lane.leaving is None and applied > lane.received and not lane.generations:
            lane.replaying = True
            effects.send.append(ask_again(lane))
        owed = owed_blocks(lane, applied)
        self._counters.resent_steps += sum(request.block.steps for request in owed)
        effects.send.extend(owed)
        if lane.leaving is not None:
            self._leave(lane, effects)
        self._fail_if_due(lane, effects)
        self._flush([*lane.unsent][:1], effects)

    def _on_unbound(self, unbound: pb.Unbound, effects: Effects) -> None:
        lane = self._lanes.get(unbound.handle)
        if lane is None:
            return
        if unbound.HasField("status"):
            self._on_taken_away(lane, error_of(unbound.status), effects)
        elif lane.phase is LanePhase.FENCING:
            lane.advance(LaneEvent.UNBOUND)
            if lane.leaving is None:
                self._bind(lane, effects)
            else:
                self._leave(lane, effects)
        else:
            closed = SessionClosedError("the session was closed by this client")
            self._end_lane(lane, closed, effects)

    def _on_taken_away(self, lane: Lane, error: CarouselError, effects: Effects) -> None:
        leaves = lane.leaving is not None and not (lane.leaving.close or lane.owes)
        if error.retryable and self._policy.mends and not leaves:
            self._come_again(lane, LaneEvent.PUT_OFF, error)
        else:
            self._end_lane(lane, error, effects)

    def _leave(self, lane: Lane, effects: Effects) -> None:
        """Gives the handle back as soon as that is safe: nothing that was received may be undone."""
        assert lane.leaving is not None
        close = lane.leaving.close
        if lane.gone or lane.phase in (LanePhase.FENCING, LanePhase.CLOSING):
            return
        if lane.phase is LanePhase.WAITING:
            if not lane.session_id or not (close or lane.owes):
                self._end_lane(lane, SessionClosedError("closed here"), effects)
                return
            self._bind(lane, effects)
        if lane.phase is LanePhase.WAITING or (lane.owes and not close):
            return
        lane.advance(LaneEvent.LEAVE)  # an Unbind may follow its Bind at once
        self._send_unbind(lane, effects, close=close)

    # -- steps

    def _on_outputs(self, result: pb.BlockResult, effects: Effects) -> None:
        data = np.frombuffer(result.outputs, np.uint8)
        rows = data.reshape(len(result.handles), result.steps, -1)
        if not self._fill_whole(result, rows):
            for place, (handle, first) in enumerate(
                zip(result.handles, result.first_seqs, strict=True)
            ):
                self._fill_row(self._lanes.get(handle), first, place, rows, effects)
        touched = []
        for handle in result.handles:
            lane = self._lanes.get(handle)
            if lane is not None and lane.listens:
                touched.append(lane)
                self._settle(lane, effects)
        self._flush([lane.unsent[0] for lane in touched if lane.unsent], effects)
        effects.send.extend(acknowledgement(touched))

    def _on_durable(self, durable: pb.Durable, effects: Effects) -> None:
        for handle, seq in zip(durable.handles, durable.durables, strict=True):
            lane = self._lanes.get(handle)
            if lane is None or not lane.listens:
                continue
            lane.durable = max(lane.durable, seq)
            lane.store_fault = None
            lane.forget()
            if lane.journal is not None:
                lane.journal.durable_at(lane.durable)
            if lane.leaving is not None:
                self._leave(lane, effects)
            if lane.unsent:
                self._flush([lane.unsent[0]], effects)

    # -- refusals

    def _on_failure(self, failure: pb.Failure, effects: Effects) -> None:
        handles = failure.handles or (failure.handle,)
        seqs = failure.seqs or (failure.seq,)
        for handle, seq in zip(handles, seqs, strict=True):
            self._on_failure_of(handle, seq, error_of(failure.status, seq=seq), effects)

    def _on_failure_of(self, handle: int, seq: int, error: CarouselError, effects: Effects) -> None:
        if handle == 0:
            _check_names_none(error)
            return
        lane = self._lanes.get(handle)
        if lane is None:  # it has just ended, and Unbound has said why
            return
        if lane.phase in IN_FLIGHT and seq == 0:
            if not isinstance(error, HandleNotBoundError):  # that is of an Unbind before it
                self._bind_refused(lane, error, effects)
        elif lane.phase is LanePhase.CLOSING and seq == 0:
            self._on_taken_away(lane, error, effects)
        elif lane.listens and STORE_WAITS in error.metadata:
            lane.store_fault = error  # no step is refused: they wait, and so does the lane
        elif lane.listens and seq <= lane.sent:
            self._refused(lane, seq, error, effects)

    def _bind_refused(self, lane: Lane, error: CarouselError, effects: Effects) -> None:
        newest = error.metadata.get("attach_id", "")
        if isinstance(error, SupersededError) and newest.isdecimal() and not lane.retried:
            lane.retried = True
            if (
                lane.binding is not None
            ):  # the clocks differ: the application asks later than that one
                lane.attach_id = self._major(int(newest) >> ATTACH_BITS) << ATTACH_BITS
                lane.advance(LaneEvent.PUT_OFF)
                self._bind(lane, effects)
                return
        if lane.bound_before and isinstance(error, SessionNotFoundError):
            error = not_found(lane, error)
        first = lane.binding is not None and not lane.bound_before
        if error.retryable and self._policy.mends and not first:
            self._come_again(lane, LaneEvent.PUT_OFF, error)
        else:
            self._end_lane(lane, error, effects)

    def _refused(self, lane: Lane, seq: int, error: CarouselError, effects: Effects) -> None:
        """A step will not run: it fails, or it was accepted before, or the session outlives that."""
        again = 0 < seq <= lane.resent
        # A lane leaves no gap, so the session went back: its next Bound says how far (R9).
        went_back = lane.tracks_durable and error.reason == "SEQUENCE_GAP" and lane.failing is None
        # What names no step is a Replay: the steps have run, so none of them has failed.
        outlived = seq == 0 or (lane.tracks_durable and error.reason in PASSING)
        passes = went_back or (error.retryable and (again or outlived))
        if passes and self._policy.mends:
            if lane.phase is LanePhase.BOUND:
                self._come_again(lane, LaneEvent.HOLD, error)
            return
        if lane.phase is LanePhase.HELD:
            return
        if again and (seq <= lane.received or not _waited_for(lane, seq)):
            # The session is not the one that took this step, or an earlier process sent it.
            if lane.journal is not None and seq > lane.received:
                lane.journal.withdraw(seq)
            self._abandon(lane, error, effects)
            return
        if lane.failing is None or seq < lane.failing[0]:
            lane.failing = (seq, error)
        self._fail_if_due(lane, effects)


def _check_names_none(error: CarouselError) -> None:
    """A refusal of a message that named no session, or of several without their names."""
    if error.retryable:
        raise error
    if not isinstance(error, HandleNotBoundError):
        raise ProtocolViolationError(f"the server could not read a message: {error.message}")


def _waited_for(lane: Lane, seq: int) -> bool:
    return any(ticket.first_seqs[ticket.places[lane.handle]] <= seq for ticket in lane.tickets)
