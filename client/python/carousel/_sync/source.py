"""Rows from any source, as the blocks of a stream."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from carousel._core.rows import ModelRows
from carousel._core.tickets import Rows


class BlockSource:
    """Takes rows from an iterable, `block_steps` at a time, and encodes them.

    Attributes:
        error: what the iterable, or a row, was at fault with. Nothing more is taken after it.
    """

    def __init__(self, rows: Iterable[Any], block_steps: int, model: ModelRows) -> None:
        self.error: Exception | None = None
        self._rows = iter(rows)
        self._block_steps = block_steps
        self._model = model

    def take(self) -> Rows | None:
        """The next block; shorter than `block_steps` at the end or before a fault, and None after it."""
        taken: list[Any] = []
        if self.error is not None:
            return None
        try:
            for row in islice(self._rows, self._block_steps):
                taken.append(row)  # noqa: PERF402 - those before an error are to be sent
        except Exception as error:  # noqa: BLE001 - it is raised when their outputs have been given
            self.error = error
        if not taken:
            return None
        block, refused = self._model.encode_block(taken)
        self.error = refused or self.error
        return block
