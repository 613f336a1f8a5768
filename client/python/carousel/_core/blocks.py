"""What goes out: blocks that fit the windows, acknowledgements, and requests to replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.duration_pb2 import Duration

from carousel._errors import MessageTooLargeError
from carousel_protos.v1 import carousel_pb2 as pb

from .cursors import SentInputs
from .lane import Intake, Lane
from .lifecycle import LanePhase
from .link import Link
from .resets import wire_resets
from .tickets import Rows, StepTicket

ENVELOPE_BYTES = 256
"""Of a message besides its handles, cursors and inputs."""

BYTES_PER_HANDLE = 26
"""At most: a handle (5, packed), a first seq (10) and an ack (10), with one to spare."""


def duration(seconds: float) -> Duration:
    """Seconds as protobuf has them."""
    result = Duration()
    result.FromNanoseconds(int(seconds * 1e9))
    return result


class Part(NamedTuple):
    """The sessions of a ticket that are at one server: their lanes, and their places in the ticket."""

    link: Link
    lanes: Sequence[Lane]
    places: Sequence[int]


def next_blocks(ticket: StepTicket) -> list[tuple[Link, pb.Block]]:
    """The next part of a ticket that may be sent now: a block for each link. None if it must wait.

    Raises:
        JournalError: the inputs cannot be written down, so nothing was sent.
    """
    lanes = ticket.lanes
    places: Sequence[int] = range(len(lanes))
    if ticket.errors:
        places = [place for place in places if place not in ticket.errors]
        lanes = [ticket.lanes[place] for place in places]
    steps = _steps_now(ticket, lanes)
    if not lanes or steps <= 0:
        return []
    row_bytes = sent_row_bytes(ticket.inputs, ticket.resets)
    row_bytes = max(row_bytes, ticket.outputs.shape[2])  # the answer must fit as well
    parts = _by_link(lanes, places)
    for link, of_link, _ in parts:
        steps = min(steps, steps_per_message(len(of_link), row_bytes, link.max_message_bytes))
    blocks = [(part, _block_of(ticket, part, steps)) for part in parts]
    for part, block in blocks:
        _write_down(part.lanes, block)
    ticket.sent_steps += steps
    for part, block in blocks:
        for row, lane in enumerate(part.lanes):
            first, lane.cursors.sent = lane.cursors.sent + 1, lane.cursors.sent + steps
            lane.log.inputs.append(SentInputs(first, lane.cursors.sent, row, block))
    return [(part.link, block) for part, block in blocks]


def _by_link(lanes: Sequence[Lane], places: Sequence[int]) -> list[Part]:
    first = lanes[0].link
    for lane in lanes:
        if lane.link is not first:
            break
    else:  # the usual case
        return [Part(first, lanes, places)]
    parts: dict[str, tuple[list[Lane], list[int]]] = {}
    for lane, place in zip(lanes, places, strict=True):
        of_link = parts.setdefault(lane.link.address, ([], []))
        of_link[0].append(lane)
        of_link[1].append(place)
    return [Part(at[0].link, at, places) for at, places in parts.values()]


def _write_down(lanes: Sequence[Lane], block: pb.Block) -> None:
    """Writes the inputs of a block to the journals of its sessions."""
    for row, lane in enumerate(lanes):
        if lane.journal is not None:
            data = np.frombuffer(block.inputs, np.uint8).reshape(len(lanes), block.steps, -1)
            resets = np.frombuffer(block.resets, np.uint8).reshape(-1, block.steps)
            of_lane = resets[row] if len(resets) else None
            lane.journal.inputs(lane.cursors.sent + 1, data[row], of_lane)


def sent_row_bytes(inputs: Rows, resets: Rows | None) -> int:
    """Bytes of one step of one session in a block."""
    row_bytes: int = inputs.shape[2]
    return row_bytes + (resets is not None)


def steps_per_message(sessions: int, row_bytes: int, max_message_bytes: int) -> int:
    """How many steps of each of so many sessions one message can carry.

    Raises:
        MessageTooLargeError: not even one.
    """
    payload_bytes = max_message_bytes - ENVELOPE_BYTES - sessions * BYTES_PER_HANDLE
    steps = payload_bytes // (sessions * row_bytes)
    if steps < 1:
        raise MessageTooLargeError(
            f"one step of {sessions} sessions is larger than max_message_bytes={max_message_bytes}"
        )
    return steps


def check_fits(lanes: Sequence[Lane], row_bytes: int) -> None:
    """Raises MessageTooLargeError if a step of these sessions is too large for a message of any server."""
    if lanes:
        for link, of_link, _ in _by_link(lanes, range(len(lanes))):
            steps_per_message(len(of_link), row_bytes, link.max_message_bytes)


def send_due_acks(link: Link, lanes: Sequence[Lane]) -> None:
    """Confirms outputs where no block will do so soon and the server keeps half a window."""
    due = [
        lane
        for lane in lanes
        if lane.phase is LanePhase.BOUND  # a fence may have taken its handle just now
        and not lane.unsent
        and (lane.cursors.received - lane.cursors.acked) * 2 >= lane.cursors.window
    ]
    send_acks(link, due)


def send_acks(link: Link, lanes: Sequence[Lane]) -> None:
    """Confirms the outputs that were received, and were told by this activation of the session."""
    due = [lane for lane in lanes if lane.cursors.ackable > lane.cursors.acked]
    if not due:
        return
    for lane in due:
        lane.cursors.acked = lane.cursors.ackable
    acks = [lane.cursors.acked for lane in due]
    link.send(acks=pb.Acks(handles=[lane.handle for lane in due], acks=acks))


def ask_again(link: Link, lane: Lane) -> None:
    """Asks for the outputs that the server still keeps."""
    lane.intake = Intake.REPLAYING
    link.send(replay=pb.Replay(handle=lane.handle))


def _steps_now(ticket: StepTicket, lanes: Sequence[Lane]) -> int:
    """Steps that every window has room for. Waits for a quarter of a window rather than send few steps."""
    left = ticket.steps - ticket.sent_steps
    steps = left
    for lane in lanes:
        if lane.phase is not LanePhase.BOUND or lane.failing is not None:
            return 0
        if lane.link.draining and not lane.leaves_last:
            return 0
        if not lane.unsent or lane.unsent[0] is not ticket:
            return 0
        room, window = lane.cursors.room, lane.cursors.window
        if room < min(left, max(window // 4, 1)):
            return 0
        steps = min(steps, room, max(window // 2, 1))
    return steps


def _block_of(ticket: StepTicket, part: Part, steps: int) -> pb.Block:
    begin, end = ticket.sent_steps, ticket.sent_steps + steps
    lanes = part.lanes
    rows = ticket.inputs[:, begin:end]
    resets = None if ticket.resets is None else ticket.resets[:, begin:end]
    if len(lanes) < len(ticket.lanes):
        rows, resets = rows[part.places], None if resets is None else resets[part.places]
    block = pb.Block(
        handles=[lane.handle for lane in lanes],
        first_seqs=[lane.cursors.sent + 1 for lane in lanes],
        steps=steps,
        inputs=rows.tobytes(),
        resets=wire_resets(resets),
    )
    if any(lane.cursors.received > lane.cursors.acked for lane in lanes):
        for cursors in [lane.cursors for lane in lanes]:
            cursors.acked = cursors.received if cursors.heard is None else cursors.ackable
            block.acks.append(cursors.acked)
    if ticket.timeout_s is not None:
        block.timeout.CopyFrom(duration(ticket.timeout_s))
    return block
