"""Steps in flight: blocks go out as the windows allow, outputs go to the tickets that wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from carousel._error_bases import CarouselError, JournalError, ProtocolViolationError
from carousel_protos.v1 import carousel_pb2 as pb

from .bindings import Bindings
from .blocks import next_blocks
from .lane import Intake, Lane
from .lifecycle import LaneEvent, LanePhase
from .link import Link, Links
from .resume import compare
from .tickets import Rows, StepTicket


class Steps:
    """Moves the cursors of the lanes, and ends tickets and lanes."""

    def __init__(self, links: Links, bindings: Bindings) -> None:
        self._links = links
        self._bindings = bindings

    # -- out

    def flush(self, tickets: Iterable[StepTicket]) -> None:
        """Sends what the windows have room for, of these tickets and of those queued behind."""
        todo = list(tickets)
        while todo:
            ticket = todo.pop(0)
            while blocks := self._next_blocks(ticket):
                for link, block in blocks:
                    link.send(block=block)
            if ticket.sent_steps == ticket.steps:
                for lane in ticket.lanes:
                    if lane.unsent and lane.unsent[0] is ticket:
                        lane.unsent.popleft()
                        todo.extend([*lane.unsent][:1])

    def _next_blocks(self, ticket: StepTicket) -> list[tuple[Link, pb.Block]]:
        while True:
            try:
                return next_blocks(ticket)
            except JournalError as error:  # nothing was sent, and the others may go on
                for lane in [lane for lane in ticket.lanes if lane.journal is error.journal]:
                    self.abandon(lane, error)

    # -- in

    def fill(self, link: Link, result: pb.BlockResult, rows: Rows) -> None:
        """Outputs came from a server: uint8[handles, steps, row bytes]."""
        if self._fill_whole(link, result, rows):
            return
        for place, (handle, first) in enumerate(
            zip(result.handles, result.first_seqs, strict=True)
        ):
            lane = link.lanes.get(handle)
            if lane is not None and lane.listens:
                self._fill_row(lane, first, rows[place])

    def _fill_whole(self, link: Link, result: pb.BlockResult, rows: Rows) -> bool:
        """The usual case, in one copy: the next steps of all sessions of a ticket that are at one server."""
        first_lane = link.lanes.get(result.handles[0])
        if first_lane is None or not first_lane.tickets:
            return False
        ticket = first_lane.tickets[0]
        lanes, begins, places = ticket.lanes, ticket.first_seqs, None
        if len(lanes) != len(rows):
            places = _places_of(ticket, result.handles)
            if places is None:
                return False
            lanes, begins = [lanes[place] for place in places], [begins[place] for place in places]
        offset = result.first_seqs[0] - begins[0]
        if not 0 <= offset <= ticket.steps - result.steps:
            return False
        for lane, handle, first, begin in zip(
            lanes, result.handles, result.first_seqs, begins, strict=True
        ):
            if (
                lane.handle != handle
                or first != lane.cursors.received + 1
                or first - begin != offset
                or lane.link is not link
                or lane.phase is not LanePhase.BOUND
                or lane.intake is not Intake.PLAIN
                or lane.tickets[0] is not ticket
            ):
                return False
        part = slice(offset, offset + result.steps)
        if places is None:
            ticket.outputs[:, part] = rows
        else:
            ticket.outputs[places, part] = rows
        for row, lane in enumerate(lanes):
            cursors = lane.cursors
            if cursors.tracks_durable:
                lane.log.add_outputs(cursors.received + 1, row, rows, cursors.durable)
            cursors.received += result.steps
        return True

    def _fill_row(self, lane: Lane, first: int, rows: Rows) -> None:
        """Outputs of one session: compares what is known, and fills tickets in order."""
        cursors = lane.cursors
        if not _is_in_turn(lane, first, len(rows)):
            return
        known = min(cursors.received + 1 - first, len(rows))
        if known > 0:
            if not self._is_same(lane, first, rows[:known]):
                return
            rows = rows[known:]
            first += known
        if not len(rows):
            return
        lane.intake = Intake.PLAIN if lane.journal is None else Intake.CHECKED
        if cursors.sent < first and lane.leaving is not None:
            return  # of steps that were given up with the session
        if cursors.sent < first:  # accepted from an earlier stream, and run only now
            cursors.unread += len(rows)
            lane.move_to(cursors.received + len(rows))
            return
        if cursors.tracks_durable:
            lane.log.add_outputs(first, 0, rows[None], cursors.durable)
        if lane.journal is not None:
            try:
                lane.journal.outputs(first, rows)
            except JournalError as error:
                self.abandon(lane, error)
                return
        _fill_tickets(lane, rows)

    def _is_same(self, lane: Lane, first: int, rows: Rows) -> bool:
        """Compares outputs that came again; the lane ends if they differ."""
        compared, diverged = compare(lane, first, rows)
        self._links.counters.replayed_steps_compared += compared
        if diverged is None:
            return True
        self._links.counters.replays_diverged += 1
        self.abandon(lane, diverged)
        return False

    def settle(self, lane: Lane) -> None:
        """Ends the tickets whose outputs have all come."""
        lane.tries = 0
        while lane.tickets:
            ticket = lane.tickets[0]
            if ticket.last_seq(ticket.places[lane.handle]) > lane.cursors.received:
                break
            lane.tickets.popleft()
            if ticket.row_ended():
                self._links.end(ticket)
        lane.log.forget(lane.cursors)
        self.fail_if_due(lane)

    # -- ends

    def fail_if_due(self, lane: Lane) -> None:
        """Ends the steps from a refused one on, once the outputs before it have come."""
        if lane.failing is None or lane.cursors.received + 1 < lane.failing[0]:
            return
        seq, error = lane.failing
        lane.failing = None
        if lane.journal is not None:
            lane.journal.withdraw(max(seq, lane.cursors.received + 1))
        self.fail_from(lane, seq, error)

    def fail_from(self, lane: Lane, seq: int, error: CarouselError) -> None:
        """Ends the steps from `seq` on (0: all without an output) with an error."""
        next_seq = lane.cursors.received + 1
        seq = max(seq, next_seq)
        others: list[StepTicket] = []
        while lane.tickets:
            ticket = lane.tickets[-1]
            place = ticket.places[lane.handle]
            if ticket.last_seq(place) < seq:
                break
            if ticket.is_marked(place, seq):
                lane.next_reset.mark()  # it has not run, so it is still for the next step
            lane.tickets.pop()
            ticket.errors[place] = error
            ticket.error = ticket.error or error
            ticket.answered_steps = next_seq - ticket.first_seqs[0]
            if ticket.row_ended():
                self._links.end(ticket)
            else:
                others.append(ticket)
        if lane.roll_back(seq) and lane.phase is LanePhase.BOUND and lane.leaving is None:
            self._bindings.fence(lane)
        self.flush(others)

    def abandon(self, lane: Lane, error: CarouselError) -> None:
        """Ends a lane, and unbinds it if the server has it bound."""
        if lane.listens:
            self._bindings.unbind(lane, close=False)
        self.end(lane, error)

    def end(self, lane: Lane, error: CarouselError) -> None:
        """Ends a lane, and what its callers wait for."""
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
        self._bindings.remove(lane)
        self.fail_from(lane, 0, error)
        lane.log.clear()
        if binding is not None:
            binding.error = error
            self._links.end(binding)
        if leaving is not None:
            self._links.end(leaving.ticket)
        if journal is not None:
            journal.close()


def _places_of(ticket: StepTicket, handles: Sequence[int]) -> list[int] | None:
    """The places of sessions in a ticket. None if it lacks one, or has them in another order."""
    places = [ticket.places.get(handle, -1) for handle in handles]
    return places if places == sorted(set(places)) and places[0] >= 0 else None


def _is_in_turn(lane: Lane, first: int, steps: int) -> bool:
    """Checks that this activation leaves out no output; False for one that will come again.

    An output that was sent just before the server read our Replay is part of its answer too.
    """
    cursors = lane.cursors
    heard = cursors.received if cursors.heard is None else cursors.heard
    if first > heard + 1:
        if lane.intake is Intake.REPLAYING:
            return False
        raise ProtocolViolationError(
            f"step {first} of session {lane.session_id} came, but {heard + 1} is next"
        )
    if cursors.heard is not None:
        heard = max(heard, first + steps - 1)
        cursors.heard = heard if heard < cursors.received else None
    return True


def _fill_tickets(lane: Lane, rows: Rows) -> None:
    """Copies new outputs to the tickets that wait for them."""
    cursors = lane.cursors
    for ticket in lane.tickets:
        place = ticket.places[lane.handle]
        offset = cursors.received + 1 - ticket.first_seqs[place]
        if offset < 0:  # steps that an earlier process sent: no ticket waits for them
            cursors.received += min(-offset, len(rows))
            rows = rows[-offset:]
            offset = 0
        taken = min(len(rows), ticket.steps - offset)
        ticket.outputs[place, offset : offset + taken] = rows[:taken]
        cursors.received += taken
        rows = rows[taken:]
        if not len(rows):
            return
    cursors.received += len(rows)
