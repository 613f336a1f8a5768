"""The server's messages, and what follows from them: one method for each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from carousel._error_bases import CarouselError, ConnectionLostError, ProtocolViolationError
from carousel._errors import (
    HandleNotBoundError,
    SessionClosedError,
    SessionNotFoundError,
    SupersededError,
)
from carousel_protos.v1 import carousel_pb2 as pb

from .addresses import Addresses
from .bindings import Bindings
from .blocks import ask_again, send_acks, send_due_acks
from .faults import error_of
from .lane import Lane
from .lifecycle import LaneEvent, LanePhase
from .link import Link, Links
from .resume import not_found, obstacle, owed_blocks, take_up
from .routing import Routing
from .steps import Steps

PASSING = frozenset(
    (
        *("DRAINING", "STORE_UNAVAILABLE", "SESSION_HELD", "SESSION_PARKED", "LEASE_LOST"),
        "SLAB_FULL",  # it was parked, and every slot is busy just now
        "QUEUE_FULL",
    )
)
"""Refusals of steps that a durable session survives: it continues on another server, or later."""


STORE_WAITS = "accepted"
"""Metadata of a STORE_UNAVAILABLE that refuses nothing. Steps up to there were accepted, and wait for the
store.
"""


class Answers:
    """Takes the servers' messages."""

    def __init__(
        self, links: Links, addresses: Addresses, routing: Routing, bindings: Bindings, steps: Steps
    ) -> None:
        self._links = links
        self._addresses = addresses
        self._routing = routing
        self._bindings = bindings
        self._steps = steps
        self._answers: dict[str, Callable[[Link, Any], None]] = {
            "welcome": self._on_welcome,
            "bound": self._on_bound,
            "outputs": self._on_outputs,
            "failure": self._on_failure,
            "durable": self._on_durable,
            "drain": self._on_drain,
            "unbound": self._on_unbound,
            "moved": self._on_moved,
        }

    def receive(self, link: Link, response: pb.AttachResponse) -> None:
        """Takes a message. Raises as `AttachCore.receive`."""
        kind = response.WhichOneof("event")
        if kind is None:  # of a newer protocol
            return
        try:
            self._answers[kind](link, getattr(response, kind))
        except (IndexError, ValueError) as error:
            raise ProtocolViolationError(f"a message of kind {kind}: {error}") from error

    # -- servers

    def _on_welcome(self, link: Link, welcome: pb.Welcome) -> None:
        link.on_welcome(welcome)
        self._addresses.answered(link.address)

    def _on_drain(self, link: Link, drain: pb.Drain) -> None:
        link.on_drain(drain)
        self._addresses.failed(link.address, self._links.now_s)

    # -- bindings

    def _on_bound(self, link: Link, bound: pb.Bound) -> None:
        lane, session = link.lanes.get(bound.handle), bound.session
        if lane is None:  # it was given up while its Bind was in flight
            link.send(unbind=pb.Unbind(handle=bound.handle))
            return
        if not lane.binds:
            return
        if session.epoch < lane.facts.epoch:
            raise ProtocolViolationError(
                f"session {session.id} is bound in epoch {session.epoch}, "
                f"but {lane.facts.epoch} was seen"
            )
        is_old = lane.phase is LanePhase.OVERTAKEN and session.applied < lane.cursors.sent
        lane.advance(LaneEvent.BOUND)
        if is_old:
            self._bindings.fence(lane)
            return
        self._bindings.recovered(lane)
        self._routing.arrived(lane)
        if lane.facts.bound:
            self._links.counters.rebinds += 1
            error = obstacle(lane, session)
            if error is not None:
                self._steps.abandon(lane, error)
                return
            take_up(lane, session)
        else:
            lane.take_facts(session)
            lane.start_from(session)
        if lane.journal is not None:
            lane.journal.bound(session, lane.attach_id)
        if lane.binding is not None:
            lane.binding.session = session
            self._links.end(lane.binding)
            lane.binding = None
        self._resume(lane, session.applied)

    def _resume(self, lane: Lane, applied: int) -> None:
        """R8: confirms, asks for outputs, sends inputs again; then what is new.

        Asking comes before sending, so that old outputs come before those of what is sent now.
        """
        send_acks(lane.link, [lane])  # also if it leaves: what it owes must fit the window
        if (
            lane.leaving is None
            and applied > lane.cursors.received
            and not lane.generations.running
        ):
            ask_again(lane.link, lane)
        for block in owed_blocks(lane, applied):
            self._links.counters.resent_steps += block.steps
            lane.link.send(block=block)
        if lane.leaving is not None:
            self.leave(lane)
        self._steps.fail_if_due(lane)
        self._steps.flush([*lane.unsent][:1])

    def _on_unbound(self, link: Link, unbound: pb.Unbound) -> None:
        lane = link.lanes.get(unbound.handle)
        if lane is None:
            return
        if unbound.HasField("status"):
            self._on_taken_away(lane, error_of(unbound.status))
        elif lane.phase is LanePhase.FENCING:
            lane.advance(LaneEvent.UNBOUND)
            self._routing.refused(lane, lane.trouble.error if lane.trouble else None)
            self.bind(lane)
        else:
            closed = SessionClosedError("the session was closed by this client")
            self._steps.end(lane, closed)

    def _on_taken_away(self, lane: Lane, error: CarouselError) -> None:
        leaves = lane.leaving is not None and not (lane.leaving.close or lane.owes)
        if error.retryable and self._links.mends and not leaves:
            self._look_on(lane, error)
        else:
            self._steps.end(lane, error)

    def _look_on(self, lane: Lane, error: CarouselError) -> None:
        """A server has refused a session for now. It is bound elsewhere at once, or after a pause."""
        if self._goes_on(lane, error):
            self._bindings.go_on(lane, LaneEvent.PUT_OFF, error)
        else:
            self._bindings.put_off(lane, LaneEvent.PUT_OFF, error)

    def _goes_on(self, lane: Lane, error: CarouselError) -> bool:
        return self._routing.redirected(lane, error) or self._routing.refused(lane, error)

    def _on_moved(self, link: Link, moved: pb.Moved) -> None:
        """R8 as after a break. What was sent and has not run is sent to the other server."""
        lane = link.lanes.get(moved.handle)
        if lane is None:
            return
        lane.advance(LaneEvent.MOVE)
        self._routing.moved(lane, moved.address)
        error = ConnectionLostError(f"its session was handed over to {lane.link.address}")
        self._bindings.trouble(lane, error).retry_at_s = None
        self.bind(lane)

    def bind(self, lane: Lane) -> None:
        """Binds a waiting lane, or goes on to give it back."""
        if lane.leaving is None:
            self._bindings.bind(lane)
        else:
            self.leave(lane)

    def leave(self, lane: Lane) -> None:
        """Gives the handle back as soon as that is safe: nothing that was received may be undone."""
        assert lane.leaving is not None
        close = lane.leaving.close
        if lane.gone or lane.phase in (LanePhase.FENCING, LanePhase.CLOSING):
            return
        if lane.phase is LanePhase.WAITING:
            if not lane.session_id or not (close or lane.owes):
                self._steps.end(lane, SessionClosedError("closed here"))
                return
            self._bindings.bind(lane)
        if lane.phase is LanePhase.WAITING or (lane.owes and not close):
            return
        lane.advance(LaneEvent.LEAVE)  # an Unbind may follow its Bind at once
        self._bindings.unbind(lane, close=close)

    # -- steps

    def _on_outputs(self, link: Link, result: pb.BlockResult) -> None:
        data = np.frombuffer(result.outputs, np.uint8)
        self._steps.fill(link, result, data.reshape(len(result.handles), result.steps, -1))
        touched = []
        for handle in result.handles:
            lane = link.lanes.get(handle)
            if lane is not None and lane.listens:
                touched.append(lane)
                self._steps.settle(lane)
        self._steps.flush([lane.unsent[0] for lane in touched if lane.unsent])
        send_due_acks(link, touched)

    def _on_durable(self, link: Link, durable: pb.Durable) -> None:
        for handle, seq in zip(durable.handles, durable.durables, strict=True):
            lane = link.lanes.get(handle)
            if lane is None or not lane.listens:
                continue
            lane.durable_at(seq)
            lane.store_fault = None
            lane.log.forget(lane.cursors)
            if lane.leaving is not None:
                self.leave(lane)
            if lane.unsent:
                self._steps.flush([lane.unsent[0]])

    # -- refusals

    def _on_failure(self, link: Link, failure: pb.Failure) -> None:
        handles = failure.handles or (failure.handle,)
        seqs = failure.seqs or (failure.seq,)
        for handle, seq in zip(handles, seqs, strict=True):
            self._on_failure_of(link, handle, seq, error_of(failure.status, seq=seq))

    def _on_failure_of(self, link: Link, handle: int, seq: int, error: CarouselError) -> None:
        if handle == 0:
            _check_names_none(error)
            return
        lane = link.lanes.get(handle)
        if lane is None:  # it has just ended, and Unbound has said why
            return
        if lane.binds and seq == 0:
            if not isinstance(error, HandleNotBoundError):  # that is of an Unbind before it
                self._on_bind_refused(lane, error)
        elif lane.phase is LanePhase.CLOSING and seq == 0:
            self._on_taken_away(lane, error)
        elif lane.listens and STORE_WAITS in error.metadata:
            lane.store_fault = error  # no step is refused: they wait, and so does the lane
        elif lane.listens and seq <= lane.cursors.sent:
            self._on_step_refused(lane, seq, error)

    def _on_bind_refused(self, lane: Lane, error: CarouselError) -> None:
        newest = error.metadata.get("attach_id", "")
        if isinstance(error, SupersededError) and newest.isdecimal() and not lane.retried:
            lane.retried = True
            if lane.binding is not None:  # the clocks differ: this application asked later
                self._bindings.rename(lane, int(newest))
                lane.advance(LaneEvent.PUT_OFF)
                self._bindings.bind(lane)
                return
        if lane.facts.bound and isinstance(error, SessionNotFoundError):
            error = not_found(lane, error)
        first = lane.binding is not None and not lane.facts.bound
        if not (error.retryable and self._links.mends):
            self._steps.end(lane, error)
        elif not first:
            self._look_on(lane, error)
        elif self._goes_on(lane, error):
            self._bindings.go_on(lane, LaneEvent.PUT_OFF, error)
        else:  # the caller tries again, as long as it wants to
            self._steps.end(lane, error)

    def _on_step_refused(self, lane: Lane, seq: int, error: CarouselError) -> None:
        """A step will not run. It fails, or it was accepted before, or the session survives that."""
        cursors = lane.cursors
        again = 0 < seq <= cursors.resent
        # A lane leaves no gap, so the session went back: its next Bound says how far (R9).
        went_back = (
            cursors.tracks_durable and error.reason == "SEQUENCE_GAP" and lane.failing is None
        )
        # What names no step is a Replay: the steps have run, so none of them has failed.
        outlived = seq == 0 or (cursors.tracks_durable and error.reason in PASSING)
        passes = went_back or (error.retryable and (again or outlived))
        if passes and self._links.mends:
            if lane.phase is LanePhase.BOUND:
                self._bindings.put_off(lane, LaneEvent.HOLD, error)
            return
        if lane.phase is LanePhase.HELD:
            return
        if again and (seq <= cursors.received or not _waited_for(lane, seq)):
            # The session is not the one that took this step, or an earlier process sent it.
            if lane.journal is not None and seq > cursors.received:
                lane.journal.withdraw(seq)
            self._steps.abandon(lane, error)
            return
        if lane.failing is None or seq < lane.failing[0]:
            lane.failing = (seq, error)
        self._steps.fail_if_due(lane)


def _check_names_none(error: CarouselError) -> None:
    """A refusal of a message that named no session, or of several without their names."""
    if error.retryable:
        raise error
    if not isinstance(error, HandleNotBoundError):
        raise ProtocolViolationError(f"the server could not read a message: {error.message}")


def _waited_for(lane: Lane, seq: int) -> bool:
    return any(ticket.first_seqs[ticket.places[lane.handle]] <= seq for ticket in lane.tickets)
