"""How far a session's steps have come, and what is kept of them in case they are needed again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from carousel_protos.v1 import carousel_pb2 as pb

from .tickets import Rows

UNTRACKED = (pb.DURABILITY_NONE, pb.DURABILITY_UNSPECIFIED)
"""Levels of sessions that live with their server only."""


@dataclass(slots=True)
class Cursors:
    """Sequence numbers as in carousel.proto: acked <= received <= sent < next_seq.

    Attributes:
        window: most steps sent and not received.
        next_seq: seq of the next new step.
        sent: last step that was ever sent.
        resent: last step that was sent again since the last Bound. It had been accepted before.
        received: last step whose output came, or was given up.
        heard: last step whose output came since the last Bound, where that is less than `received`; else
            None. A server that was restored from its store has not told more, and no more is confirmed.
        acked: last step that the server knows to be received.
        durable: last step that the store has confirmed.
        tracks_durable: whether inputs are kept until they are durable, or only until received.
        unread: outputs before `received` that the server still keeps and no caller here has read.
    """

    window: int = 1
    next_seq: int = 1
    sent: int = 0
    resent: int = 0
    received: int = 0
    heard: int | None = None
    acked: int = 0
    durable: int = 0
    tracks_durable: bool = False
    unread: int = 0

    @property
    def forgettable(self) -> int:
        """Last step whose input is not needed again."""
        return min(self.received, self.durable) if self.tracks_durable else self.received

    @property
    def ackable(self) -> int:
        """Last step that may be confirmed: it was read here, and this activation has told it."""
        read = self.received - self.unread
        return read if self.heard is None else min(read, self.heard)

    @property
    def room(self) -> int:
        """How many more steps may be sent now."""
        base = self.forgettable
        if self.heard is not None:
            base = min(base, self.heard)
        return base + self.window - self.sent

    def take(self, session: pb.Session) -> None:
        """Takes what holds at each Bound, whatever was before."""
        self.window = max(session.window_steps, 1)
        self.tracks_durable = session.durability not in UNTRACKED
        self.durable, self.acked, self.heard = session.durable, session.ack, None

    def move_to(self, applied: int) -> None:
        """Goes on behind `applied`, with nothing in flight."""
        self.received = self.sent = applied
        self.next_seq, self.heard = applied + 1, None

    def roll_back(self, seq: int) -> None:
        """Steps from `seq` on count as not sent."""
        self.sent, self.next_seq = seq - 1, seq
        self.resent = min(self.resent, self.sent)


class SentInputs(NamedTuple):
    """Inputs that were sent: steps first … last of a lane are rows 0 … of `block`, place `place`."""

    first: int
    last: int
    place: int
    block: pb.Block


class ReceivedOutputs(NamedTuple):
    """Outputs that came and are not durable: steps first … last of a lane are `rows[place]`."""

    first: int
    last: int
    place: int
    rows: Rows


@dataclass(slots=True)
class StepLog:
    """What may be needed again of a session's steps, in order of seq.

    Attributes:
        inputs: those that were sent and the server may still need.
        outputs: those that were received and are not durable. They are compared if they come again.
    """

    inputs: deque[SentInputs] = field(default_factory=deque)
    outputs: deque[ReceivedOutputs] = field(default_factory=deque)

    def _unrepeatable(self, durable: int) -> int:
        """Last step whose output cannot come again: the store has it, and its input is not here any more."""
        return min(durable, self.inputs[0].first - 1) if self.inputs else durable

    def add_outputs(self, first: int, place: int, rows: Rows, durable: int) -> None:
        """Keeps outputs that may come again: `rows[place]`, from step `first` on."""
        last = first + rows.shape[1] - 1
        if last > self._unrepeatable(durable):
            self.outputs.append(ReceivedOutputs(first, last, place, rows))

    def forget(self, cursors: Cursors) -> None:
        """Drops the inputs that are not needed again, and outputs that cannot come again."""
        forgettable = cursors.forgettable
        while self.inputs and self.inputs[0].last <= forgettable:
            self.inputs.popleft()
        if self.outputs:
            unrepeatable = self._unrepeatable(cursors.durable)
            while self.outputs and self.outputs[0].last <= unrepeatable:
                self.outputs.popleft()

    def cut(self, seq: int) -> bool:
        """Drops the inputs from `seq` on. True if later blocks are in flight, to be refused too."""
        more = bool(self.inputs) and self.inputs[-1].first > seq
        while self.inputs and self.inputs[-1].first >= seq:
            self.inputs.pop()
        if self.inputs and self.inputs[-1].last >= seq:
            self.inputs[-1] = self.inputs[-1]._replace(last=seq - 1)
        return more

    def clear(self) -> None:
        """Drops all."""
        self.inputs.clear()
        self.outputs.clear()
