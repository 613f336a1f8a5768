"""Acks for which a full queue had no room, merged outside the queue."""

from __future__ import annotations

from .ports import Ack, StepBlock, numbers
from .sinks import StepSink
from .types import SessionRef


class LateAcks(dict[tuple[StepSink, SessionRef], int]):
    """The highest ack of each session and sender since the last `take`.

    A client does not repeat an Ack, and sends as many more steps as it has acknowledged. So no Ack may be
    lost. There is at most one entry for each bound session. Not thread-safe.
    """

    def add(self, command: Ack | StepBlock) -> None:
        """Adds an Ack, or the acks of a refused block."""
        acks = numbers(command.acks)
        for (row, generation), seq in zip(command.refs, acks, strict=bool(acks)):
            sender = command.sink, SessionRef(int(row), int(generation))
            self[sender] = max(seq, self.get(sender, 0))

    def take(self) -> list[Ack]:
        """Returns one Ack for each sink, and removes them."""
        together: dict[StepSink, dict[SessionRef, int]] = {}
        for (sink, ref), seq in self.items():
            together.setdefault(sink, {})[ref] = seq
        self.clear()
        return [Ack(sink, list(acks), list(acks.values())) for sink, acks in together.items()]
