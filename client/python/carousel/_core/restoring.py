"""From a journal to a lane: a restarted client continues where the earlier process ended."""

from __future__ import annotations

import numpy as np

from carousel._error_bases import JournalError
from carousel_protos.v1 import carousel_pb2 as pb

from .cursors import ReceivedOutputs, SentInputs
from .journal import Journal
from .lane import Intake, Lane
from .resets import wire_resets
from .tickets import StepTicket


def journaled_target(
    journal: Journal, target: str | pb.OpenSessionRequest, *, named: bool
) -> str | pb.OpenSessionRequest:
    """The session to bind: the journal's if it has one, else `target`, with which the journal begins.

    `named`: the caller has chosen the session's id, so another one is refused.

    Raises:
        JournalError: the journal belongs to another session, or cannot be written.
    """
    opens = None if isinstance(target, str) else target
    session_id = target if isinstance(target, str) else target.session_id
    model = opens.model if opens is not None else ""
    if journal.closing or not journal.session_id:
        journal.begin(session_id, model)
        return target
    if named and session_id != journal.session_id:
        raise JournalError(f"the journal is that of session {journal.session_id}, not {session_id}")
    if model and journal.model not in ("", model):
        raise JournalError(
            f"the journal is that of a session of model {journal.model}, not {model}"
        )
    if journal.was_bound or opens is None:
        return journal.session_id
    request = pb.OpenSessionRequest()
    request.CopyFrom(opens)
    request.session_id = journal.session_id
    return request


def restore(journal: Journal, lane: Lane) -> None:
    """Gives a new lane the cursors, inputs and outputs of a journal."""
    lane.journal, lane.intake = journal, Intake.CHECKED
    if not journal.was_bound:
        return
    lane.session_id = journal.session_id
    facts, cursors = lane.facts, lane.cursors
    facts.bound, facts.epoch = True, max(facts.epoch, journal.epoch)
    facts.identity, facts.execution_class = journal.identity, journal.execution_class
    cursors.tracks_durable, cursors.durable = journal.tracked, journal.durable
    cursors.sent, cursors.received = journal.submitted, journal.received
    cursors.next_seq = journal.submitted + 1
    for part in journal.parts_in:
        block = pb.Block(handles=[lane.handle], steps=len(part.rows), inputs=part.rows.tobytes())
        block.resets = wire_resets(part.resets)
        lane.log.inputs.append(SentInputs(part.first, part.last, 0, block))
    if journal.tracked:
        for part in journal.parts_out:
            lane.log.outputs.append(ReceivedOutputs(part.first, part.last, 0, part.rows[None]))
    lane.log.forget(cursors)


def replay(journal: Journal, lane: Lane, output_row_bytes: int) -> tuple[StepTicket, bool]:
    """A ticket for the outputs that an earlier process may not have handed out, and whether all are here.

    Those that are still to come are of steps which that process sent. The others are in the journal.
    """
    first, last = journal.taken + 1, journal.restored_to
    ticket = StepTicket([lane], np.zeros((1, journal.unread, 0), np.uint8), output_row_bytes, None)
    ticket.first_seqs[0], ticket.sent_steps = first, ticket.steps
    for part in journal.parts_out:
        begin, end = max(part.first, first), min(part.last, last)
        if begin <= end:
            rows = part.rows[begin - part.first : end - part.first + 1]
            ticket.outputs[0, begin - first : end - first + 1] = rows
    journal.restored_to = journal.taken
    complete = lane.cursors.received >= last
    if not complete:
        lane.tickets.appendleft(ticket)
    return ticket, complete
