"""Who steps in the next tick. Decides only: no torch, no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carousel_server.core.types import Int64s


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one tick, those with most steps first.

    Attributes:
        rows: int64[n], none twice.
        counts: int64[n], steps of each, at least 1, descending.
    """

    rows: Int64s
    counts: Int64s

    @classmethod
    def of(cls, rows: Int64s, counts: Int64s) -> Batch | None:
        """A batch of rows in any order; those without steps are left out."""
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        return cls(rows[order], counts[order]) if len(order) else None

    @property
    def steps(self) -> int:
        """Most steps of any row."""
        return int(self.counts[0])

    def active(self, step: int) -> int:
        """How many rows (a prefix of `rows`) still have a step number `step`, from 0."""
        return int(np.searchsorted(-self.counts, -step, side="left"))


class Scheduler:
    """Round robin over the sessions that have something to run.

    A session gets at most `chunk_steps` steps in a tick, so a long prompt holds the others up by no more
    than that; and at most `max_batch` sessions step in a tick, so with more than that ready each waits
    its turn. Then a tick takes one step of each: else those who send much, and have much waiting, would
    make the others' turn come as much later.
    """

    def __init__(self, max_batch: int, chunk_steps: int) -> None:
        self._max_batch = max_batch
        self._chunk_steps = chunk_steps
        # The row that was served last; the next tick begins behind it.
        self._last_row = -1

    def select(self, rows: Int64s, steps: Int64s) -> Batch | None:
        """Chooses the batch of a tick.

        Args:
            rows: int64[n], ascending, none twice.
            steps: int64[n], how many each could run now; perhaps none.

        Returns:
            None if no row has any.
        """
        can = steps > 0
        ready, steps = (rows, steps) if can.all() else (rows[can], steps[can])
        if not len(ready):
            return None
        if len(ready) > self._max_batch:
            start = int(np.searchsorted(ready, self._last_row, side="right"))
            turn = np.roll(np.arange(len(ready)), -start)[: self._max_batch]
            ready, steps = ready[turn], np.ones(self._max_batch, np.int64)
        self._last_row = int(ready[-1])
        return Batch.of(ready, np.minimum(steps, self._chunk_steps))
