"""Between the sequences of one engine and the engine: blocks one way, outputs the other. The hot path.

All steps that came in one turn of the loop go as one block, and all outputs of one tick come back in one
call, whatever streams they belong to. No task and no future is made for a step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from contextlib import suppress
from typing import Any

from carousel_server.core.errors import STORE_WAITS, CarouselError
from carousel_server.core.ports import EnginePort, StepBlock, ask
from carousel_server.core.sinks import tick_began_s
from carousel_server.core.types import Bytes2D, Int64s, SessionView

from .sequence import Sequence
from .tally import Tallies, TickTimes


class SequenceSink:
    """The StepSink of all sequences of one engine. Sink methods on its thread, the rest on the loop."""

    def __init__(
        self,
        engine: EnginePort,
        loop: asyncio.AbstractEventLoop,
        tallies: Tallies,
        parked: Callable[[Sequence, SessionView], None],
        left: Callable[[Sequence, CarouselError], None],
    ) -> None:
        """`parked` and `left` hear of sequences that have lost their row, before these do."""
        self.engine = engine
        self._loop = loop
        self._tallies = tallies
        self._parked_one = parked
        self._left = left
        self._row_bytes = engine.model.output_row_bytes
        self._bound: dict[int, Sequence] = {}
        self._last_tag = 0
        # In the order of their coming, none twice: a block may hold a session once.
        self._ready: dict[Sequence, None] = {}

    def bind(self, sequence: Sequence) -> int:
        """A new tag for a sequence that is about to be bound."""
        self._last_tag += 1
        self._bound[self._last_tag] = sequence
        return self._last_tag

    def unbind(self, tag: int) -> None:
        """What comes under a tag from now on is old news."""
        self._bound.pop(tag, None)

    # -- to the engine

    def send(self, sequence: Sequence) -> None:
        """Steps the sequence's `running` together with all others of its tenant in this turn of the loop."""
        if not self._ready:
            self._loop.call_soon(self._flush)
        self._ready[sequence] = None

    def _flush(self) -> None:
        ready, self._ready = self._ready, {}
        groups: dict[tuple[int, float, str], list[Sequence]] = {}
        for sequence in ready:
            if sequence.ref is not None and sequence.running:  # not lost since
                running = sequence.running
                key = (len(running), running[0].deadline_s, sequence.tenant)
                groups.setdefault(key, []).append(sequence)
        for (steps, deadline_s, _), sequences in groups.items():
            self._submit(sequences, steps, deadline_s)

    def _submit(self, sequences: list[Sequence], steps: int, deadline_s: float) -> None:
        applied = [sequence.applied for sequence in sequences]
        block = StepBlock(
            sink=self,
            tags=[sequence.tag for sequence in sequences],
            refs=[sequence.ref for sequence in sequences if sequence.ref is not None],
            first_seqs=[seq + 1 for seq in applied],
            steps=steps,
            inputs=b"".join([request.row for s in sequences for request in s.running]),
            acks=applied,
            deadline_s=deadline_s,
            tenant=sequences[0].tenant,
        )
        ask(self.engine, block)

    # -- from the engine, on its thread

    def outputs(self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D) -> None:
        """Takes outputs."""
        times = TickTimes(tick_began_s(), time.monotonic())
        self._on_loop(self._outputs, tags, first_seqs, steps, rows, times)

    def failures(self, tags: Many[int], seqs: Many[int], error: CarouselError) -> None:
        """Takes refusals. A request that waits for the store waits for its own deadline."""
        if STORE_WAITS in error.metadata:
            return
        self._on_loop(self._failures, tags, seqs, error)

    def unbound(self, tag: int, error: CarouselError) -> None:
        """Takes the news that a session has left."""
        self._on_loop(self._unbound, tag, error)

    def durable(self, tags: Int64s, seqs: Int64s) -> None:
        """Triton's clients keep no inputs, so nobody is to be told."""

    def parked(self, tag: int, session: SessionView) -> None:
        """Takes the news that a session is in the store for now."""
        self._on_loop(self._parked, tag, session)

    def returned(self, tag: int, block: StepBlock) -> None:
        """A block came too late for a session that was parked: `parked` has sent it again."""

    def _on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody is waiting
            self._loop.call_soon_threadsafe(callback, *args)

    # -- the same on the loop

    def _outputs(
        self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D, times: TickTimes
    ) -> None:
        bound, width, data = self._bound, self._row_bytes, rows.tobytes()
        ran: dict[str, int] = {}
        self._tallies.tick = times
        at = 0
        for tag, seq in zip(tags.tolist(), first_seqs.tolist(), strict=True):
            sequence = bound.get(tag)
            if sequence is None or sequence.applied + 1 != seq:
                at += steps * width
                continue
            ran[sequence.tenant] = ran.get(sequence.tenant, 0) + steps
            for _ in range(steps):
                sequence.stepped(data[at : at + width])
                at += width
        self._tallies.ran(ran)

    def _failures(self, tags: Many[int], seqs: Many[int], error: CarouselError) -> None:
        for tag, seq in zip(tags, seqs, strict=True):
            sequence = self._bound.get(tag)
            # One of steps that have been answered, or sent alone since, is old news.
            if sequence is not None and sequence.runs(seq):
                sequence.refused(error)

    def _unbound(self, tag: int, error: CarouselError) -> None:
        sequence = self._bound.pop(tag, None)
        if sequence is not None:
            self._left(sequence, error)
            sequence.lost(error)

    def _parked(self, tag: int, session: SessionView) -> None:
        sequence = self._bound.pop(tag, None)
        if sequence is not None:
            self._parked_one(sequence, session)
            sequence.parked()
