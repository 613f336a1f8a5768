"""Blocks of all streams that came since the last tick, joined into arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from carousel_server.core.ports import NO_DEADLINE, Column, StepBlock
from carousel_server.core.sinks import StepSink
from carousel_server.core.types import Float64s, Int64s, ModelView, SessionRef
from carousel_server.rows.rows import Rows

NO_ACK = -1
"""Where a block brings no news of what its client has received."""


@dataclass(slots=True)
class Arrivals:
    """Rows of one or more blocks with the same number of steps; arrays of length n."""

    senders: Sequence[StepSink]
    sender: Int64s  # which of `senders` each row came from
    tags: Int64s
    rows: Int64s
    generations: Int64s
    first_seqs: Int64s
    acks: Int64s | None  # NO_ACK where the block brings no news; None if no block brings any
    ours: np.ndarray  # bool: the session is live, and bound to the row's sender
    arrived_s: Float64s
    deadline_s: Float64s | None  # None for no deadlines
    inputs: np.ndarray  # uint8[n, steps, input row bytes]
    resets: (
        np.ndarray | None
    )  # bool[n, steps], steps that start from the initial state; None for none

    @property
    def steps(self) -> int:
        """Steps of each row."""
        return int(self.inputs.shape[1])

    @property
    def last_seqs(self) -> Int64s:
        """The seq of each row's last step; int64[n]."""
        return self.first_seqs + (self.steps - 1)

    def where(self, chosen: np.ndarray) -> Arrivals:
        """Some of the rows, by a mask or by their places."""
        columns = (getattr(self, field.name) for field in fields(self)[1:])
        some: Iterator[Any] = (None if c is None else c[chosen] for c in columns)
        return Arrivals(self.senders, *some)

    def repeats(self) -> bool:
        """True if a session comes more than once."""
        ordered = np.sort(self.rows)
        return bool((ordered[1:] == ordered[:-1]).any())

    def block(self, sink: StepSink) -> StepBlock:
        """A single row as the block that it came in."""
        return StepBlock(
            sink=sink,
            tags=self.tags.tolist(),
            refs=[SessionRef(int(self.rows[0]), int(self.generations[0]))],
            first_seqs=self.first_seqs.tolist(),
            steps=self.steps,
            inputs=self.inputs.tobytes(),
            acks=[] if self.acks is None or self.acks[0] == NO_ACK else self.acks.tolist(),
            deadline_s=NO_DEADLINE if self.deadline_s is None else float(self.deadline_s[0]),
            resets=b"" if self.resets is None else self.resets.tobytes(),
        )


def join(
    blocks: Sequence[StepBlock], came: Sequence[float], model: ModelView, rows: Rows
) -> Arrivals:
    """Joins blocks with the same number of steps, which came at these instants."""
    # A column at a time: with many blocks of one row, this is what costs most in a tick.
    refs = [block.refs for block in blocks]
    sizes = list(map(len, refs))
    n, steps = sum(sizes), blocks[0].steps
    of = _senders_of(sizes, n)
    places, generations = np.ascontiguousarray(_pairs(refs, n).T)
    senders = [block.sink for block in blocks]
    bound = rows.table.sink[places] == _each(rows.listeners.numbers(senders), of, np.int64)
    until = [block.deadline_s for block in blocks]
    data = blocks[0].inputs if len(blocks) == 1 else b"".join([block.inputs for block in blocks])
    return Arrivals(
        senders=senders,
        sender=of,
        tags=_column([block.tags for block in blocks], n),
        rows=places,
        generations=generations,
        first_seqs=_column([block.first_seqs for block in blocks], n),
        acks=_acks_of([block.acks for block in blocks], sizes),
        ours=rows.slots.live(places, generations) & bound,
        arrived_s=_each(came, of, np.float64),
        deadline_s=None if _equal(until, NO_DEADLINE) else _each(until, of, np.float64),
        inputs=np.frombuffer(data, np.uint8).reshape(n, steps, model.input_row_bytes),
        resets=_resets_of([block.resets for block in blocks], sizes, steps),
    )


def _senders_of(sizes: Sequence[int], n: int) -> Int64s:
    """Which block each of n rows came in; int64[n]."""
    if len(sizes) == 1:
        return np.zeros(n, np.int64)
    return np.arange(n) if n == len(sizes) else np.repeat(np.arange(len(sizes)), sizes)


def _column(parts: Sequence[Column], n: int) -> Int64s:
    """The numbers of all parts; int64[n]."""
    if np.ndarray in set(map(type, parts)):
        return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts, dtype=np.int64)
    return np.fromiter(_all(parts, n), np.int64, n)


def _pairs(parts: Sequence[Sequence[SessionRef] | Int64s], n: int) -> Int64s:
    """The rows and generations of all parts; int64[n, 2]."""
    if np.ndarray in set(map(type, parts)):
        return (
            np.asarray(parts[0])
            if len(parts) == 1
            else np.concatenate([np.asarray(part, np.int64) for part in parts])
        )
    return np.fromiter(chain.from_iterable(_all(parts, n)), np.int64, 2 * n).reshape(n, 2)


def _all(parts: Sequence[Any], n: int) -> Iterable[Any]:
    """The n entries of all parts."""
    return map(itemgetter(0), parts) if n == len(parts) else chain.from_iterable(parts)


def _acks_of(parts: Sequence[Column], sizes: Sequence[int]) -> Int64s | None:
    """The acks of all blocks, of which some may have none."""
    given = list(map(len, parts))
    if not any(given):
        return None
    if given != list(sizes):
        parts = [part if len(part) else [NO_ACK] * n for part, n in zip(parts, sizes, strict=True)]
    return _column(parts, sum(sizes))


def _each(of_blocks: Sequence[float], of: Int64s, dtype: type[np.generic]) -> np.ndarray:
    """A number of each block, for each of its rows; `of` int64[n] are their blocks."""
    if not _equal(of_blocks, of_blocks[0]):
        return np.asarray(of_blocks, dtype)[of]
    each = np.empty(len(of), dtype)
    each.fill(of_blocks[0])
    return each


def _equal(numbers: Sequence[float], number: float) -> bool:
    """True if all numbers are this one."""
    return numbers.count(number) == len(numbers)


def _resets_of(parts: Sequence[bytes], sizes: Sequence[int], steps: int) -> np.ndarray | None:
    """Which steps of the blocks start from the initial state; bool[n, steps], None for none."""
    if not any(parts):
        return None
    data = b"".join(part or bytes(size * steps) for part, size in zip(parts, sizes, strict=True))
    return np.frombuffer(data, np.bool_).reshape(-1, steps)
