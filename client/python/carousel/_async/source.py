"""Rows from any source, some at a time."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any


async def gathered(
    rows: AsyncIterable[Any] | Iterable[Any], block_steps: int
) -> AsyncIterator[list[Any]]:
    """Lists of `block_steps` rows; the last may be shorter, and is given before what `rows` raises."""
    taken: list[Any] = []
    try:
        async for row in _each(rows):
            taken.append(row)
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
