"""Acks that met a full queue: merged, so that they need no room in it."""

from __future__ import annotations

from .ports import Ack, StepBlock
from .sinks import StepSink
from .types import SessionRef


class LateAcks:
    """The highest ack of each session and sender since the last `take`.

    A lost Ack is not repeated: its client counts on it, and sends as many more steps as it has
    acknowledged. The number of entries is bounded by the sessions that are bound. Not thread-safe.
    """

    def __init__(self) -> None:
        self._acks: dict[tuple[StepSink, SessionRef], int] = {}

    def add(self, command: Ack | StepBlock) -> None:
        """Remembers an Ack, or those of a block that is refused."""
        for ref, seq in zip(command.refs, command.acks, strict=bool(command.acks)):
            sender = command.sink, ref
            self._acks[sender] = max(seq, self._acks.get(sender, 0))

    def take(self) -> list[Ack]:
        """One Ack for each sender, and forgets them."""
        together: dict[StepSink, dict[SessionRef, int]] = {}
        for (sink, ref), seq in self._acks.items():
            together.setdefault(sink, {})[ref] = seq
        self._acks.clear()
        return [Ack(sink, list(acks), list(acks.values())) for sink, acks in together.items()]

    def __len__(self) -> int:
        """Number of sessions with an Ack that waits."""
        return len(self._acks)
