"""Who steps in the next tick. Decides only: no torch, no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carousel_server.core.types import Int64s

_SINK_BITS = 32
"""Numbers of sinks are smaller: there are no more sinks than rows."""


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
        if len(rows) and counts[0] > 0 and not np.count_nonzero(counts != counts[0]):
            return cls(rows, counts)  # nearly always
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        return cls(rows[order], counts[order]) if len(order) else None

    @property
    def steps(self) -> int:
        """Most steps of any row."""
        return int(self.counts[0])

    @property
    def total(self) -> int:
        """Steps of all rows."""
        return int(np.add.reduce(self.counts))

    def active(self, step: int) -> int:
        """How many rows (a prefix of `rows`) still have a step number `step`, from 0."""
        return int(np.searchsorted(-self.counts, -step, side="left"))


class Scheduler:
    """Round robin over tenants, and within each over the sessions that have something to run.

    A session gets at most `chunk_steps` steps in a tick, so a long prompt holds the others up by no more
    than that; and at most `max_batch` sessions step in a tick, so with more than that ready each waits
    its turn. Then a tick takes one step of each: else those who send much, and have much waiting, would
    make the others' turn come as much later. The turns go by sink and then by row, so that the outputs
    of a tick go to few sinks, many to each: every sink is a message.

    Tenants get equal shares of a batch. What a tenant cannot use goes to the others. While several
    tenants have sessions, a tick runs at most `max_batch` steps: a step of one tenant waits no longer
    for another's chunks than for a full batch. A tick that they share may be given fewer.
    """

    def __init__(self, max_batch: int, chunk_steps: int) -> None:
        self._max_batch = max_batch
        self._chunk_steps = chunk_steps
        # Whose turn was last, as sink and row: of a lone tenant, and of each of several. The next turn
        # begins behind it.
        self._lone_last = (-1, -1)
        self._last: Int64s = np.full((1, 2), -1, np.int64)
        # The tenant that got a place beyond its equal share last.
        self._extra = -1

    def select(
        self,
        rows: Int64s,
        steps: Int64s,
        sinks: Int64s,
        tenants: Int64s | None = None,
        most_steps: int | None = None,
    ) -> Batch | None:
        """Chooses the batch of a tick.

        Args:
            rows: int64[n], ascending, none twice.
            steps: int64[n], how many each could run now; perhaps none.
            sinks: int64[n], the number of each row's sink.
            tenants: int64[n], the number of each row's tenant; None while there is only one.
            most_steps: of all rows together, at least 1; None for the limits alone.

        Returns:
            None if no row has any.
        """
        if np.count_nonzero(can := steps > 0) < len(rows):
            rows, steps, sinks = rows[can], steps[can], sinks[can]
            tenants = None if tenants is None else tenants[can]
        if not len(rows):
            return None
        places = min(self._max_batch, most_steps or self._max_batch)
        if len(rows) > places:
            if tenants is None:
                rows = self._turn(rows, sinks, places)
            else:
                rows = self._turns(rows, sinks, tenants, places)
            return Batch.of(rows, np.ones_like(rows))
        most = self._chunk_steps
        if tenants is not None or most_steps is not None:
            most = min(most, places // len(rows))
        return Batch.of(rows, np.minimum(steps, most))

    def _turn(self, rows: Int64s, sinks: Int64s, places: int) -> Int64s:
        """The next `places` of more rows than that, all of one tenant."""
        order = np.argsort(sinks, kind="stable")
        rows, sinks = rows[order], sinks[order]
        sink, row = self._lone_last
        served = np.count_nonzero((sinks < sink) | ((sinks == sink) & (rows <= row)))
        turn = np.roll(np.arange(len(rows)), -served)[:places]
        self._lone_last = (int(sinks[turn[-1]]), int(rows[turn[-1]]))
        return np.asarray(rows[turn])

    def _turns(self, rows: Int64s, sinks: Int64s, tenants: Int64s, places: int) -> Int64s:
        """The next of each tenant, `places` of more rows than that."""
        order = np.argsort(tenants << _SINK_BITS | (sinks + 1), kind="stable")
        rows, sinks, tenants = rows[order], sinks[order], tenants[order]
        starts = np.flatnonzero(np.diff(tenants, prepend=-1))
        present, counts = tenants[starts], np.diff(starts, append=len(rows))
        shares = self._shares(present, counts, places)
        of = np.repeat(np.arange(len(starts)), counts)
        sink, row = self._last_of(present)[of].T
        before = (sinks < sink) | ((sinks == sink) & (rows <= row))
        served = np.add.reduceat(before, starts, dtype=np.int64)
        # Each row's distance from the turn of its tenant.
        away = np.arange(len(rows)) - (starts + served)[of]
        away += np.where(away < 0, counts[of], 0)
        ends = np.flatnonzero(away == shares[of] - 1)
        self._last[tenants[ends]] = np.stack((sinks[ends], rows[ends]), axis=1)
        return np.asarray(rows[away < shares[of]])

    def _last_of(self, tenants: Int64s) -> Int64s:
        """Whose turn was last; int64[n, 2]. `tenants` ascend."""
        lacking = int(tenants[-1]) + 1 - len(self._last)
        if lacking > 0:
            self._last = np.concatenate((self._last, np.full((lacking, 2), -1, np.int64)))
        return self._last[tenants]

    def _shares(self, tenants: Int64s, counts: Int64s, places: int) -> Int64s:
        """Places of each tenant in the batch; int64[n], `places` in all.

        The shares are equal, but none is above its tenant's `counts`. Places that do not divide go round.
        """
        if len(tenants) == 1:  # the others' sessions have nothing to run
            return np.asarray([places])
        ordered = np.sort(counts)
        before = np.cumsum(ordered) - ordered
        # What would be taken if nobody got more than each of these counts.
        taken = before + ordered * np.arange(len(ordered), 0, -1)
        whole = int(np.searchsorted(taken, places, side="right"))
        level, left = divmod(places - int(before[whole]), len(ordered) - whole)
        shares = np.minimum(counts, level)
        if left:
            more = np.flatnonzero(counts > level)
            first = int(np.searchsorted(tenants[more], self._extra, side="right"))
            chosen = np.take(more, np.arange(first, first + left), mode="wrap")
            shares[chosen] += 1
            self._extra = int(tenants[chosen[-1]])
        return shares
