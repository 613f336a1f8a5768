"""The sink of a door: brings what engines tell to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import StepBlock
from carousel_server.core.sinks import current_tick
from carousel_server.core.types import Bytes2D, Int64s, SessionView

from .loop_calls import calls_of
from .seat import Tick


class LoopSink:
    """A `StepSink` whose methods, on engine threads, call those with an underscore on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._on_loop = calls_of(loop).put

    def outputs(self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D) -> None:
        """See `StepSink.outputs`."""
        tick = current_tick.began_s, time.monotonic()
        self._on_loop(self._outputs, tags, first_seqs, steps, rows, tick)

    def failures(self, tags: Sequence[int], seqs: Sequence[int], error: CarouselError) -> None:
        """See `StepSink.failures`."""
        self._on_loop(self._failures, tags, seqs, error)

    def unbound(self, tag: int, error: CarouselError) -> None:
        """See `StepSink.unbound`."""
        self._on_loop(self._unbound, tag, error)

    def durable(self, tags: Int64s, seqs: Int64s) -> None:
        """See `StepSink.durable`."""
        self._on_loop(self._durable, tags, seqs)

    def away(self, tag: int, session: SessionView) -> None:
        """See `StepSink.away`."""
        self._on_loop(self._away, tag, session)

    def returned(self, tag: int, block: StepBlock) -> None:
        """See `StepSink.returned`."""
        self._on_loop(self._returned, tag, block)

    def moved(self, tag: int, address: str) -> None:
        """See `StepSink.moved`."""
        self._on_loop(self._moved, tag, address)

    # -- on the loop

    def _outputs(self, tags: Int64s, firsts: Int64s, steps: int, rows: Bytes2D, tick: Tick) -> None:
        raise NotImplementedError

    def _failures(self, tags: Sequence[int], seqs: Sequence[int], error: CarouselError) -> None:
        raise NotImplementedError

    def _unbound(self, tag: int, error: CarouselError) -> None:
        raise NotImplementedError

    def _durable(self, tags: Int64s, seqs: Int64s) -> None:
        raise NotImplementedError

    def _away(self, tag: int, session: SessionView) -> None:
        raise NotImplementedError

    def _returned(self, tag: int, block: StepBlock) -> None:
        raise NotImplementedError

    def _moved(self, tag: int, address: str) -> None:
        raise NotImplementedError
