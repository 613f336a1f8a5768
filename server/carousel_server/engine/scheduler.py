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
    make the others' turn come as much later. The turns go by sink and then by row, so that the outputs
    of a tick go to few sinks, many to each: every sink is a message.
    """

    def __init__(self, max_batch: int, chunk_steps: int) -> None:
        self._max_batch = max_batch
        self._chunk_steps = chunk_steps
        # Whose turn was last, as sink and row; the next tick begins behind it.
        self._last = (-1, -1)

    def select(self, rows: Int64s, steps: Int64s, sinks: Int64s) -> Batch | None:
        """Chooses the batch of a tick.

        Args:
            rows: int64[n], ascending, none twice.
            steps: int64[n], how many each could run now; perhaps none.
            sinks: int64[n], the number of each row's sink.

        Returns:
            None if no row has any.
        """
        if not (can := steps > 0).all():
            rows, steps, sinks = rows[can], steps[can], sinks[can]
        if not len(rows):
            return None
        if len(rows) > self._max_batch:
            rows = self._turn(rows, sinks)
            steps = np.ones_like(rows)
        return Batch.of(rows, np.minimum(steps, self._chunk_steps))

    def _turn(self, rows: Int64s, sinks: Int64s) -> Int64s:
        """The next `max_batch` of more rows than that."""
        order = np.argsort(sinks, kind="stable")
        rows, sinks = rows[order], sinks[order]
        sink, row = self._last
        served = np.count_nonzero((sinks < sink) | ((sinks == sink) & (rows <= row)))
        turn = np.roll(np.arange(len(rows)), -served)[: self._max_batch]
        self._last = (int(sinks[turn[-1]]), int(rows[turn[-1]]))
        return np.asarray(rows[turn])
