"""After a break: what the server still has, which inputs it lacks, and whether outputs are the same again.

Rules R8, R9 and R12 of the protocol, as functions of a lane and of the session that the server names.
"""

from __future__ import annotations

import numpy as np

from carousel._error_bases import CarouselError, ReplayDivergedError
from carousel._errors import DataLossError, SupersededError
from carousel_protos.v1 import carousel_pb2 as pb

from .cursors import UNTRACKED
from .lane import Intake, Lane, identity_of
from .resets import wire_resets
from .tickets import Rows

_SAME_INSTANT_S = 0.001
"""Stores may round when a session was opened."""


def obstacle(lane: Lane, session: pb.Session) -> CarouselError | None:
    """Why a lane cannot continue with the session that was bound again; None if it can."""
    seed, created_at_s = identity_of(session)
    known_seed, known_s = lane.facts.identity
    if lane.facts.identity != (0, 0.0) and (
        seed != known_seed or abs(created_at_s - known_s) > _SAME_INSTANT_S
    ):
        return DataLossError(
            f"session {lane.session_id} is another one now: the one that was bound here is lost"
        )
    sent, generations = lane.cursors.sent, lane.generations
    moves_itself = generations.running > 0 or generations.left or lane.leaving is not None
    if session.applied > sent and not moves_itself:
        return SupersededError(
            f"step {session.applied} of session {lane.session_id} has run, but only {sent} were "
            "sent from here: another client has stepped it meanwhile"
        )
    owed_from = lane.log.inputs[0].first if lane.log.inputs else sent + 1
    if session.applied + 1 < owed_from:
        return _lost(lane, session, owed_from)
    return None


def _lost(lane: Lane, session: pb.Session, owed_from: int) -> DataLossError:
    where = "its server" if session.durability in UNTRACKED else "the store"
    return DataLossError(
        f"session {lane.session_id} is back at step {session.applied}: {where} has lost steps that "
        f"were confirmed up to {owed_from - 1}, and their inputs are no longer here",
        metadata={"applied": str(session.applied), "expected": str(owed_from - 1)},
        seq=session.applied + 1,
    )


def not_found(lane: Lane, error: CarouselError) -> CarouselError:
    """The error for a session that was bound here before and is not there any more."""
    text = f"session {lane.session_id} is not there any more: the store has lost it"
    if not lane.cursors.tracks_durable:
        text = f"session {lane.session_id} was lost with its server: it was opened with durability none"
    return DataLossError(text, request_id=error.request_id)


def take_up(lane: Lane, session: pb.Session) -> None:
    """Takes the cursors of a session that is bound again. R8: prunes first, which opens the window."""
    applied, cursors = session.applied, lane.cursors
    lane.take_facts(session)
    lane.log.forget(cursors)
    if lane.generations.left:
        lane.generations.left = False
        if applied >= cursors.sent:
            cursors.unread = 0
            lane.move_to(applied)
    if applied < cursors.received:
        cursors.heard = applied
    lane.intake = Intake.CHECKED
    cursors.resent = cursors.sent


def owed_blocks(lane: Lane, applied: int) -> list[pb.Block]:
    """Blocks with the inputs and resets of the steps that were sent and have not run."""
    sent = lane.cursors.sent
    last = sent if lane.failing is None else min(sent, lane.failing[0] - 1)
    blocks = []
    for kept in lane.log.inputs:
        begin, end = max(kept.first, applied + 1), min(kept.last, last)
        if begin > end:
            continue
        block = kept.block
        data = np.frombuffer(block.inputs, np.uint8).reshape(len(block.handles), block.steps, -1)
        part = slice(begin - kept.first, end - kept.first + 1)
        owed = pb.Block(handles=[lane.handle], first_seqs=[begin], steps=end - begin + 1)
        owed.inputs = data[kept.place, part].tobytes()
        if block.resets:
            resets = np.frombuffer(block.resets, np.uint8).reshape(-1, block.steps)
            owed.resets = wire_resets(resets[kept.place, part])
        blocks.append(owed)
    return blocks


def compare(lane: Lane, first: int, rows: Rows) -> tuple[int, ReplayDivergedError | None]:
    """Compares outputs that came again. Returns how many were compared, and an error if any differ."""
    compared = 0
    for kept in lane.log.outputs:
        begin, end = max(kept.first, first), min(kept.last, first + len(rows) - 1)
        if begin > end:
            continue
        before = kept.rows[kept.place, begin - kept.first : end - kept.first + 1]
        again = rows[begin - first : end - first + 1]
        compared += end - begin + 1
        if np.array_equal(before, again):
            continue
        for step in range(end - begin + 1):
            if not _alike(lane, before[step : step + 1], again[step : step + 1]):
                return compared, _diverged(lane, begin + step)
    return compared, None


def _alike(lane: Lane, before: Rows, again: Rows) -> bool:
    if np.array_equal(before, again):
        return True
    return lane.alike is not None and before.shape == again.shape and lane.alike(before, again)


def _diverged(lane: Lane, seq: int) -> ReplayDivergedError:
    text = f"the output of step {seq} of session {lane.session_id} came again differently"
    facts = lane.facts
    if facts.former_class != "":
        text += f"; it was computed by {facts.former_class!r}, and now by {facts.execution_class!r}"
    return ReplayDivergedError(text, seq=seq)
