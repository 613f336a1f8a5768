"""Rows from any source, submitted in blocks by the thread that asks for their outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from carousel._core.audio import Samples
from carousel._core.resets import NextReset, block_resets
from carousel._core.rows import Array, ModelRows
from carousel._core.tickets import Rows, StepTicket

from .pending import Pending

Submit = Callable[[Rows, Rows | None], Pending[StepTicket]]


class Feed:
    """Takes rows as they are asked for, at most `most_blocks` blocks ahead of the outputs."""

    def __init__(
        self,
        rows: Iterable[Any],
        block_steps: int,
        most_blocks: int,
        model: ModelRows,
        next_reset: NextReset,
        submit: Submit,
    ) -> None:
        """The source marks `next_reset` before a row that starts from the initial state."""
        self._rows = iter(rows)
        self._block_steps = block_steps
        self._most_blocks = most_blocks
        self._model = model
        self._next_reset = next_reset
        self._submit = submit
        self._sent: deque[Pending[StepTicket]] = deque()
        self._error: Exception | None = None
        self._ended = False

    def next(self) -> Pending[StepTicket] | None:
        """The next block that was submitted, once the one before it is done with; None at the end.

        Raises:
            Exception: the error of the source, or of a row, after the blocks before it.
        """
        while not self._ended:
            if self._sent and (len(self._sent) >= self._most_blocks or self._sent[0].ended):
                break
            self._take()
        if self._sent:
            return self._sent.popleft()
        if self._error is not None:
            raise self._error
        return None

    def end(self) -> None:
        """Takes no more rows: only `next` takes any."""

    def _take(self) -> None:
        """Submits the next block; a shorter one at the end or before a fault."""
        taken: list[Any] = []
        marks: list[bool] = []
        try:
            for row in islice(self._rows, self._block_steps):
                taken.append(row)
                marks.append(self._next_reset.take())
        except Exception as error:  # noqa: BLE001 - it is raised when their outputs have been given
            self._error = error
        block, refused = self._model.encode_block(taken) if taken else (None, None)
        self._error = refused or self._error
        self._ended = not taken or self._error is not None
        resets = block_resets(marks, 0 if block is None else len(block), self._next_reset)
        if block is not None:
            self._sent.append(self._submit(block, resets))


def frames(chunks: Iterable[Any], samples: Samples) -> Iterator[Array]:
    """The rows of a signal that comes in chunks, and those of its end."""
    for chunk in chunks:
        yield from samples.push(chunk)
    yield from samples.flush()
