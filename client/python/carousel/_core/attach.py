"""The client's side of an Attach stream: sessions, cursors, windows, acknowledgements, results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from carousel._error_bases import CarouselError, ClientClosedError, ProtocolViolationError
from carousel._errors import HandleNotBoundError, SessionBusyError, SessionClosedError
from carousel._version import __version__
from carousel_protos.v1 import carousel_pb2 as pb

from .blocks import acknowledgement, ask_again, next_block, steps_per_message
from .effects import Effects
from .faults import error_of
from .lane import Lane, LanePhase
from .tickets import BindTicket, Rows, StepTicket, UnbindTicket

BindTarget = str | pb.OpenSessionRequest


class AttachCore:
    """One stream. Not safe for several threads by itself: the client around it holds a lock.

    Every method tells of one event and returns what is to be done about it.
    """

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._next_handle = 1
        self._max_message_bytes = 4 << 20
        self._lost: CarouselError | None = None
        self.draining = False
        """The server has said that it will stop."""
        self._answers: dict[str, Callable[[Any, Effects], None]] = {
            "welcome": self._on_welcome,
            "bound": self._on_bound,
            "outputs": self._on_outputs,
            "failure": self._on_failure,
            "durable": self._on_durable,
            "drain": self._on_drain,
            "unbound": self._on_unbound,
        }

    # -- what callers ask for

    def hello(self) -> Effects:
        """The first message."""
        hello = pb.Hello(client=f"carousel-python/{__version__}")
        return Effects(send=[pb.AttachRequest(hello=hello)])

    def bind(self, target: BindTarget, epoch_floor: int = 0) -> tuple[BindTicket, Effects]:
        """Binds an existing session by its id, or a new one."""
        self._check_open()
        lane = Lane(self._take_handle(), epoch=epoch_floor)
        self._lanes[lane.handle] = lane
        lane.binding = ticket = BindTicket(lane)
        bind = pb.Bind(handle=lane.handle, epoch_floor=epoch_floor)
        if isinstance(target, str):
            lane.session_id = bind.session_id = target
        else:
            lane.session_id = target.session_id
            bind.open.CopyFrom(target)
        return ticket, Effects(send=[pb.AttachRequest(bind=bind)])

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
        self._check_lane(lane)
        if not lane.unread:
            return None, Effects()
        ticket = StepTicket([lane], np.zeros((1, lane.unread, 0), np.uint8), output_row_bytes, None)
        lane.received -= lane.unread
        ticket.first_seqs[0] = lane.received + 1
        ticket.sent_steps = lane.unread
        lane.unread = 0
        lane.tickets.appendleft(ticket)
        return ticket, Effects(send=[ask_again(lane)])

    def unbind(self, lane: Lane, *, close: bool) -> tuple[UnbindTicket | None, Effects]:
        """Gives a handle back, and closes the session if asked to. None if it is gone already."""
        if self._lost or lane.phase in (LanePhase.GONE, LanePhase.CLOSING):
            return None, Effects()
        effects = Effects()
        fencing = lane.phase is LanePhase.FENCING
        lane.phase = LanePhase.CLOSING
        lane.closing = ticket = UnbindTicket()
        self._fail_from(lane, 0, SessionClosedError("closed here while steps waited"), effects)
        if fencing:  # the handle is being given back already
            lane.closes_after_fence = close
        else:
            self._send_unbind(lane, effects, close=close)
        return ticket, effects

    def generated(self, lane: Lane, applied: int | None) -> Effects:
        """A generation has run in the session; `applied` is its last step, None if unknown."""
        effects = Effects()
        if lane.phase is not LanePhase.BOUND:
            return effects
        if lane.sent > lane.received:
            self._fence(lane, effects)
            busy = (
                "steps were sent while the session was generating; session.info() tells which ran"
            )
            self._fail_from(lane, 0, SessionBusyError(busy), effects)
        elif applied is None:
            self._fence(lane, effects)
        else:
            lane.move_to(applied)
        return effects

    # -- what the server says

    def receive(self, response: pb.AttachResponse) -> Effects:
        """A message came.

        Raises:
            ProtocolViolationError: it makes no sense here; the stream cannot be trusted any more.
        """
        effects = Effects()
        kind = response.WhichOneof("event")
        if kind is not None:  # a kind of a newer protocol is none of our business
            try:
                self._answers[kind](getattr(response, kind), effects)
            except (IndexError, ValueError) as error:
                raise ProtocolViolationError(f"a message of kind {kind}: {error}") from error
        return effects

    def lost(self, error: CarouselError) -> Effects:
        """The stream is over; all that waits ends with `error`."""
        effects = Effects()
        self._lost = self._lost or error
        for lane in list(self._lanes.values()):
            self._end_lane(lane, error, effects)
        return effects

    def _on_welcome(self, welcome: pb.Welcome, _effects: Effects) -> None:
        self._max_message_bytes = welcome.max_message_bytes or self._max_message_bytes

    def _on_drain(self, _drain: pb.Drain, _effects: Effects) -> None:
        self.draining = True

    def _on_bound(self, bound: pb.Bound, effects: Effects) -> None:
        lane = self._lanes.get(bound.handle)
        if lane is None or lane.phase is not LanePhase.BINDING:
            return
        expected, lane.expected = lane.expected, None
        lane.start_from(bound.session)
        if expected is not None and expected != bound.session.applied:
            moved = f"step {expected} was the last, but {bound.session.applied} have run"
            self._fail_from(lane, 0, ProtocolViolationError(moved), effects)
        if lane.binding is not None:
            lane.binding.session = bound.session
            effects.ended.append(lane.binding)
            lane.binding = None
        self._flush(lane.unsent, effects)

    def _on_outputs(self, result: pb.BlockResult, effects: Effects) -> None:
        data = np.frombuffer(result.outputs, np.uint8)
        rows = data.reshape(len(result.handles), result.steps, -1)
        touched = []
        if not self._fill_whole(result, rows):
            for handle, first, row in zip(result.handles, result.first_seqs, rows, strict=True):
                self._fill_row(self._lanes.get(handle), first, row)
        for handle in result.handles:
            lane = self._lanes.get(handle)
            if lane is not None and lane.phase is LanePhase.BOUND:
                touched.append(lane)
                self._settle(lane, effects)
        self._flush([lane.unsent[0] for lane in touched if lane.unsent], effects)
        effects.send.extend(acknowledgement(touched))

    def _on_failure(self, failure: pb.Failure, effects: Effects) -> None:
        error = error_of(failure.status, seq=failure.seq)
        lane = self._lanes.get(failure.handle)
        if failure.handle == 0 and not isinstance(error, HandleNotBoundError):
            raise ProtocolViolationError(f"the server could not read a message: {error.message}")
        if lane is None:  # it has just ended, and Unbound has said why
            return
        if failure.seq == 0 and lane.phase in (LanePhase.BINDING, LanePhase.CLOSING):
            self._end_lane(lane, error, effects)
        elif lane.phase is LanePhase.BOUND and failure.seq <= lane.sent:
            if lane.failing is None or failure.seq < lane.failing[0]:
                lane.failing = (failure.seq, error)
            self._fail_if_due(lane, effects)

    def _on_durable(self, durable: pb.Durable, effects: Effects) -> None:
        for handle, seq in zip(durable.handles, durable.durables, strict=True):
            lane = self._lanes.get(handle)
            if lane is not None:
                lane.durable = max(lane.durable, seq)
                lane.forget()
                self._flush([*lane.unsent][:1], effects)

    def _on_unbound(self, unbound: pb.Unbound, effects: Effects) -> None:
        lane = self._lanes.get(unbound.handle)
        if lane is None:
            return
        if lane.phase is LanePhase.FENCING and not unbound.HasField("status"):
            lane.phase = LanePhase.BINDING
            self._send_bind(lane, effects)
            return
        if lane.closes_after_fence and not unbound.HasField("status"):
            lane.closes_after_fence = False
            self._send_bind(lane, effects)
            self._send_unbind(lane, effects, close=True)
            return
        error: CarouselError = SessionClosedError("the session was closed by this client")
        if unbound.HasField("status"):
            error = error_of(unbound.status)
        self._end_lane(lane, error, effects)

    # -- steps

    def _fill_whole(self, result: pb.BlockResult, rows: Rows) -> bool:
        """The usual case, in one copy: the next steps of all sessions of one ticket."""
        first_lane = self._lanes.get(result.handles[0])
        if first_lane is None or not first_lane.tickets:
            return False
        ticket = first_lane.tickets[0]
        offset = result.first_seqs[0] - ticket.first_seqs[0]
        if len(ticket.lanes) != len(rows) or not 0 <= offset <= ticket.steps - result.steps:
            return False
        for lane, handle, first, begin in zip(
            ticket.lanes, result.handles, result.first_seqs, ticket.first_seqs, strict=True
        ):
            if (
                lane.handle != handle
                or first != lane.received + 1
                or first - begin != offset
                or lane.phase is not LanePhase.BOUND
                or lane.tickets[0] is not ticket
            ):
                return False
        ticket.outputs[:, offset : offset + result.steps] = rows
        for lane in ticket.lanes:
            lane.received += result.steps
        return True

    def _fill_row(self, lane: Lane | None, first: int, rows: Rows) -> None:
        """Outputs of one session: skips what is known, and fills tickets in order."""
        if lane is None or lane.phase is not LanePhase.BOUND:
            return
        rows = rows[max(lane.received + 1 - first, 0) :]
        first = max(first, lane.received + 1)
        if not len(rows):
            return
        if first != lane.received + 1:
            raise ProtocolViolationError(
                f"step {first} of session {lane.session_id} came, but {lane.received + 1} is next"
            )
        if lane.sent < first:  # accepted from an earlier stream, and run only now
            lane.unread += len(rows)
            lane.move_to(lane.received + len(rows))
            return
        for ticket in lane.tickets:
            place = ticket.places[lane.handle]
            offset = lane.received + 1 - ticket.first_seqs[place]
            taken = min(len(rows), ticket.steps - offset)
            ticket.outputs[place, offset : offset + taken] = rows[:taken]
            lane.received += taken
            rows = rows[taken:]
            if not len(rows):
                return

    def _settle(self, lane: Lane, effects: Effects) -> None:
        """Ends the tickets whose outputs have all come."""
        while lane.tickets:
            ticket = lane.tickets[0]
            if ticket.last_seq(ticket.places[lane.handle]) > lane.received:
                break
            lane.tickets.popleft()
            if ticket.row_ended():
                effects.ended.append(ticket)
        lane.forget()
        self._fail_if_due(lane, effects)

    def _flush(self, tickets: Iterable[StepTicket], effects: Effects) -> None:
        """Sends what the windows have room for, of these tickets and of those queued behind."""
        todo = list(tickets)
        while todo:
            ticket = todo.pop(0)
            while (block := next_block(ticket, self._max_message_bytes)) is not None:
                effects.send.append(block)
            if ticket.sent_steps == ticket.steps:
                for lane in ticket.lanes:
                    if lane.unsent and lane.unsent[0] is ticket:
                        lane.unsent.popleft()
                        todo.extend([*lane.unsent][:1])

    # -- ends

    def _fail_if_due(self, lane: Lane, effects: Effects) -> None:
        """Steps before a refused one may still be under way; their outputs come first."""
        if lane.failing is None or lane.received + 1 < lane.failing[0]:
            return
        seq, error = lane.failing
        lane.failing = None
        self._fail_from(lane, seq, error, effects)

    def _fail_from(self, lane: Lane, seq: int, error: CarouselError, effects: Effects) -> None:
        """Steps from `seq` on (0: all not answered) will not run; what waits behind ends too."""
        seq = max(seq, lane.received + 1)
        others: list[StepTicket] = []
        while (
            lane.tickets and lane.tickets[-1].last_seq(lane.tickets[-1].places[lane.handle]) >= seq
        ):
            ticket = lane.tickets.pop()
            ticket.errors[ticket.places[lane.handle]] = error
            ticket.error = ticket.error or error
            ticket.answered_steps = lane.received + 1 - ticket.first_seqs[0]
            if ticket.row_ended():
                effects.ended.append(ticket)
            else:
                others.append(ticket)
        if lane.roll_back(seq) and lane.phase is LanePhase.BOUND:
            lane.expected = lane.sent
            self._fence(lane, effects)
        self._flush(others, effects)

    def _fence(self, lane: Lane, effects: Effects) -> None:
        """Unbinds and binds again: only so is it known which steps have run, and none is late."""
        lane.phase = LanePhase.FENCING
        self._send_unbind(lane, effects, close=False)

    @staticmethod
    def _send_unbind(lane: Lane, effects: Effects, *, close: bool) -> None:
        unbind = pb.Unbind(handle=lane.handle, close=close)
        effects.send.append(pb.AttachRequest(unbind=unbind))

    @staticmethod
    def _send_bind(lane: Lane, effects: Effects) -> None:
        bind = pb.Bind(handle=lane.handle, session_id=lane.session_id, epoch_floor=lane.epoch)
        effects.send.append(pb.AttachRequest(bind=bind))

    def _end_lane(self, lane: Lane, error: CarouselError, effects: Effects) -> None:
        if lane.phase is LanePhase.GONE:
            return
        closing, binding = lane.closing, lane.binding
        lane.phase, lane.error = LanePhase.GONE, error
        lane.closing = lane.binding = None
        lane.kept.clear()
        self._lanes.pop(lane.handle, None)
        self._fail_from(lane, 0, error, effects)
        if binding is not None:
            binding.error = error
            effects.ended.append(binding)
        if closing is not None:
            effects.ended.append(closing)

    def _take_handle(self) -> int:
        # Never used twice on a stream, so that a late message cannot reach another session.
        self._next_handle += 1
        return self._next_handle - 1

    def _check_open(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _check_lane(self, lane: Lane) -> None:
        if lane.phase is LanePhase.GONE:
            assert lane.error is not None
            raise lane.error
        if lane.phase is LanePhase.CLOSING:
            raise ClientClosedError(f"session {lane.session_id} was closed here")
