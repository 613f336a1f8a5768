"""Steps on their way: blocks out as the windows allow, outputs in to the tickets that they belong to."""

from __future__ import annotations

from collections.abc import Iterable

from carousel._error_bases import CarouselError, JournalError, ProtocolViolationError
from carousel_protos.v1 import carousel_pb2 as pb

from .blocks import next_block
from .effects import Effects
from .lane import KeptOutputs, Lane
from .lanes import Lanes
from .lifecycle import LaneEvent, LanePhase
from .resume import compare
from .tickets import Rows, StepTicket


class Stepping(Lanes):
    """Moves the cursors of the lanes."""

    _max_message_bytes = 4 << 20

    # -- out

    def _flush(self, tickets: Iterable[StepTicket], effects: Effects) -> None:
        """Sends what the windows have room for, of these tickets and of those queued behind."""
        if self.draining:
            return
        todo = list(tickets)
        while todo:
            ticket = todo.pop(0)
            while (block := self._next_block(ticket, effects)) is not None:
                effects.send.append(block)
            if ticket.sent_steps == ticket.steps:
                for lane in ticket.lanes:
                    if lane.unsent and lane.unsent[0] is ticket:
                        lane.unsent.popleft()
                        todo.extend([*lane.unsent][:1])

    def _next_block(self, ticket: StepTicket, effects: Effects) -> pb.AttachRequest | None:
        while True:
            try:
                return next_block(ticket, self._max_message_bytes)
            except JournalError as error:  # nothing was sent, and the others may go on
                for lane in [lane for lane in ticket.lanes if lane.journal is error.journal]:
                    self._abandon(lane, error, effects)

    # -- in

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
                or lane.careful
                or lane.tickets[0] is not ticket
            ):
                return False
        ticket.outputs[:, offset : offset + result.steps] = rows
        for place, lane in enumerate(ticket.lanes):
            if lane.tracks_durable:
                self._keep_outputs(lane, lane.received + 1, place, rows)
            lane.received += result.steps
        return True

    def _fill_row(
        self, lane: Lane | None, first: int, place: int, block: Rows, effects: Effects
    ) -> None:
        """Outputs of one session: compares what is known, and fills tickets in order."""
        if lane is None or not lane.listens:
            return
        rows = block[place]
        if not self._is_in_turn(lane, first, len(rows)):
            return
        known = min(lane.received + 1 - first, len(rows))
        if known > 0:
            compared, diverged = compare(lane, first, rows[:known])
            self._counters.replayed_steps_compared += compared
            if diverged is not None:
                self._counters.replays_diverged += 1
                self._abandon(lane, diverged, effects)
                return
            rows = rows[known:]
            first += known
        if not len(rows):
            return
        lane.replaying, lane.careful = False, lane.journal is not None
        if lane.sent < first and lane.leaving is not None:
            return  # of steps that were given up with the session
        if lane.sent < first:  # accepted from an earlier stream, and run only now
            lane.unread += len(rows)
            lane.move_to(lane.received + len(rows))
            return
        if lane.tracks_durable:
            self._keep_outputs(lane, first, 0, rows[None])
        if lane.journal is not None and not self._journal(lane, first, rows, effects):
            return
        _fill_tickets(lane, rows)

    @staticmethod
    def _keep_outputs(lane: Lane, first: int, place: int, rows: Rows) -> None:
        last = first + rows.shape[1] - 1
        if last > lane.unrepeatable:
            lane.outputs.append(KeptOutputs(first, last, place, rows))

    def _journal(self, lane: Lane, first: int, rows: Rows, effects: Effects) -> bool:
        assert lane.journal is not None
        try:
            lane.journal.outputs(first, rows)
        except JournalError as error:
            self._abandon(lane, error, effects)
            return False
        return True

    @staticmethod
    def _is_in_turn(lane: Lane, first: int, steps: int) -> bool:
        """Checks that this activation leaves out no output; False for one that will come again.

        An output that was told just before the server read our Replay is part of its answer too.
        """
        heard = lane.received if lane.heard is None else lane.heard
        if first > heard + 1:
            if lane.replaying:
                return False
            raise ProtocolViolationError(
                f"step {first} of session {lane.session_id} came, but {heard + 1} is next"
            )
        if lane.heard is not None:
            heard = max(heard, first + steps - 1)
            lane.heard = heard if heard < lane.received else None
        return True

    def _settle(self, lane: Lane, effects: Effects) -> None:
        """Ends the tickets whose outputs have all come."""
        lane.tries = 0
        while lane.tickets:
            ticket = lane.tickets[0]
            if ticket.last_seq(ticket.places[lane.handle]) > lane.received:
                break
            lane.tickets.popleft()
            if ticket.row_ended():
                effects.ended.append(ticket)
        lane.forget()
        self._fail_if_due(lane, effects)

    # -- ends

    def _fail_if_due(self, lane: Lane, effects: Effects) -> None:
        """Steps before a refused one may still be under way; their outputs come first."""
        if lane.failing is None or lane.received + 1 < lane.failing[0]:
            return
        seq, error = lane.failing
        lane.failing = None
        if lane.journal is not None:
            lane.journal.withdraw(max(seq, lane.received + 1))
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
        if lane.roll_back(seq) and lane.phase is LanePhase.BOUND and lane.leaving is None:
            self._fence(lane, effects)
        self._flush(others, effects)

    def _abandon(self, lane: Lane, error: CarouselError, effects: Effects) -> None:
        """Ends a lane that the server has bound."""
        if lane.listens:
            self._send_unbind(lane, effects, close=False)
        self._end_lane(lane, error, effects)

    def _end_lane(self, lane: Lane, error: CarouselError, effects: Effects) -> None:
        if lane.gone:
            return
        leaving, binding, journal = lane.leaving, lane.binding, lane.journal
        if leaving is not None and lane.owes and not leaving.close:
            leaving.ticket.error = error  # what was received may have been undone
        # Where no caller waits, a later detach raises the error.
        waited_for = leaving is not None or binding is not None or lane.tickets
        lane.advance(LaneEvent.LOSE if lane.owes and not waited_for else LaneEvent.END)
        lane.error = error
        lane.leaving = lane.binding = lane.journal = None
        self._lanes.pop(lane.handle, None)
        self._recovered(lane)
        self._fail_from(lane, 0, error, effects)
        lane.kept.clear()
        lane.outputs.clear()
        if binding is not None:
            binding.error = error
            effects.ended.append(binding)
        if leaving is not None:
            effects.ended.append(leaving.ticket)
        if journal is not None:
            journal.close()


def _fill_tickets(lane: Lane, rows: Rows) -> None:
    """Copies new outputs to whoever waits for them."""
    for ticket in lane.tickets:
        place = ticket.places[lane.handle]
        offset = lane.received + 1 - ticket.first_seqs[place]
        if offset < 0:  # steps that an earlier process sent: nobody waits for them
            lane.received += min(-offset, len(rows))
            rows = rows[-offset:]
            offset = 0
        taken = min(len(rows), ticket.steps - offset)
        ticket.outputs[place, offset : offset + taken] = rows[:taken]
        lane.received += taken
        rows = rows[taken:]
        if not len(rows):
            return
    lane.received += len(rows)
