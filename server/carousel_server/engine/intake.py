"""Runs what comes from the inbox: blocks of steps together, every other command by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from carousel_server.core.ports import Ack, Command, StepBlock

from .admission import Admission
from .control import Control
from .inbox import Inbox


class Intake:
    """Runs commands in order of arrival. Used on the engine's thread only."""

    def __init__(self, inbox: Inbox, admission: Admission, control: Control) -> None:
        self._inbox = inbox
        self._admission = admission
        self._control = control
        # Taken from the inbox and not yet run.
        self._taken: deque[tuple[Command, float]] = deque()
        # Blocks that will be admitted together, and the rows of those that an ack was compared with.
        self._blocks: list[tuple[StepBlock, float]] = []
        self._rows: set[int] = set()
        self._noted = 0

    def run(self, now: float) -> None:
        """Runs what has come."""
        self._taken.extend(self._inbox.drain())
        while self._taken:
            command, arrived = self._taken.popleft()
            if isinstance(command, StepBlock):
                self._blocks.append((command, arrived))
                continue
            # Acks of other sessions need not break up the blocks.
            if not isinstance(command, Ack) or self._concerns_blocks(command):
                self._admit(now)
            self._control.run(command, now)
        self._admit(now)

    def drain(self) -> Iterator[Command]:
        """Takes all commands that have not been answered, at the end."""
        yield from (block for block, _ in self._blocks)
        yield from (command for command, _ in self._taken)
        while left := self._inbox.drain():
            yield from (command for command, _ in left)

    def _concerns_blocks(self, ack: Ack) -> bool:
        for block, _ in self._blocks[self._noted :]:
            self._rows.update(ref.row for ref in block.refs)
        self._noted = len(self._blocks)
        return any(ref.row in self._rows for ref in ack.refs)

    def _admit(self, now: float) -> None:
        if self._blocks:
            self._admission.admit(self._blocks, now)
            self._blocks = []
            self._rows.clear()
            self._noted = 0
