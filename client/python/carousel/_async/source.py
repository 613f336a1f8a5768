"""Rows from any source, submitted in blocks by a task of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

from carousel._core.audio import Samples
from carousel._core.resets import NextReset, block_resets
from carousel._core.rows import Array, ModelRows
from carousel._core.tickets import Rows, StepTicket

from .pending import AsyncPending

Submit = Callable[[Rows, Rows | None], AsyncPending[StepTicket]]


class AsyncFeed:
    """Takes rows as they come, at most `most_blocks` blocks ahead of the outputs that were given."""

    def __init__(
        self,
        rows: AsyncIterable[Any] | Iterable[Any],
        block_steps: int,
        most_blocks: int,
        model: ModelRows,
        next_reset: NextReset,
        submit: Submit,
    ) -> None:
        """The source marks `next_reset` before a row that starts from the initial state."""
        self._rows = rows
        self._block_steps = block_steps
        self._model = model
        self._next_reset = next_reset
        self._submit = submit
        self._sent: asyncio.Queue[AsyncPending[StepTicket] | None] = asyncio.Queue()
        # A place is given back once the outputs of its block were given.
        self._places = asyncio.Semaphore(most_blocks)
        self._given = False
        self._feeding = asyncio.create_task(self._feed())
        self._feeding.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def next(self) -> AsyncPending[StepTicket] | None:
        """The next block that was submitted, once the one before it is done with; None at the end.

        Raises:
            Exception: the error of the source, or of a row, after the blocks before it.
        """
        if self._given:
            self._places.release()
        pending = await self._sent.get()
        self._given = pending is not None
        if pending is None:
            await self._feeding
        return pending

    def end(self) -> None:
        """Takes no more rows. Does not wait, since a loop that is ending could not."""
        self._feeding.cancel()

    async def _feed(self) -> None:
        try:
            async for taken in _gathered(self._rows, self._block_steps, self._next_reset):
                await self._places.acquire()
                block, refused = self._model.encode_block([row for row, _ in taken])
                rows = 0 if block is None else len(block)
                resets = block_resets([mark for _, mark in taken], rows, self._next_reset)
                if block is not None:
                    self._sent.put_nowait(self._submit(block, resets))
                if refused is not None:
                    raise refused
        finally:
            self._sent.put_nowait(None)


async def _gathered(
    rows: AsyncIterable[Any] | Iterable[Any], block_steps: int, next_reset: NextReset
) -> AsyncIterator[list[tuple[Any, bool]]]:
    """Lists of `block_steps` rows; the last may be shorter, and is given before what `rows` raises.

    With each row comes whether it was marked.
    """
    taken: list[tuple[Any, bool]] = []
    try:
        async for row in _each(rows):
            taken.append((row, next_reset.take()))
            if len(taken) == block_steps:
                full, taken = taken, []
                yield full
    except Exception:
        if taken:
            yield taken
        raise
    if taken:
        yield taken


async def _each(rows: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row


async def frames(
    chunks: AsyncIterable[Any] | Iterable[Any], samples: Samples
) -> AsyncIterator[Array]:
    """The rows of a signal that comes in chunks, and those of its end."""
    async for chunk in _each(chunks):
        for row in samples.push(chunk):
            yield row
    for row in samples.flush():
        yield row
