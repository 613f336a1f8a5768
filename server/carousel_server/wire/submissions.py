"""Steps on their way to engines: those of one turn of the loop go together, of whatever streams they are."""

from __future__ import annotations

import asyncio

from carousel_server.core.ports import Ack, EnginePort, Replay, StepBlock, Unbind, ask


class Submissions:
    """Blocks of steps that came in this turn of the loop. On the loop only.

    gRPC wakes all streams that have a message in one turn. One submission of all their blocks wakes the
    engine once, and its tick finds all of them.

    Attributes:
        loop: where the turns are.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._blocks: dict[EnginePort, list[StepBlock]] = {}

    def add(self, engine: EnginePort, block: StepBlock) -> None:
        """Submits a block at the end of this turn."""
        is_first = not self._blocks
        self._blocks.setdefault(engine, []).append(block)
        if is_first:
            self.loop.call_soon(self.flush)

    def ask(self, engine: EnginePort, command: Ack | Replay | Unbind) -> None:
        """Submits another command, behind all blocks that came before it."""
        self.flush()
        ask(engine, command)

    def flush(self) -> None:
        """Submits what has come."""
        if self._blocks:
            submitted, self._blocks = self._blocks, {}
            for engine, blocks in submitted.items():
                engine.submit_steps(blocks)
