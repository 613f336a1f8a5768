"""Sets and groups of rows."""

from __future__ import annotations

import numpy as np

from carousel_server.core.types import Int64s

_FEW = 64
_PATIENCE = 8
"""So often in turn most rows must have nothing to do before they leave."""


class RowSet:
    """Rows that have something to do, so that a tick need not read every slot.

    Adding is exact. Rows leave later, when most of them have had nothing to do for a while. So sessions that
    always step together do not leave and come back at every tick.
    """

    def __init__(self, slots: int) -> None:
        self._has = np.zeros(slots, np.bool_)
        # Ascending.
        self._rows: Int64s = np.empty(0, np.int64)
        # How often in turn most of them had nothing to do.
        self._idle = 0

    def add(self, rows: Int64s) -> None:
        """Adds rows, none of them twice in `rows`."""
        new = rows[~self._has[rows]]
        if len(new):
            self._has[new] = True
            self._rows = np.sort(np.concatenate((self._rows, new)))

    def add_row(self, row: int) -> None:
        """Adds one."""
        if not self._has[row]:
            self.add(np.asarray([row]))

    def where(self, column: np.ndarray, empty: float = 0) -> Int64s:
        """Its rows whose entry of `column` [slots] is not `empty`, ascending; the others may leave."""
        rows = self._rows
        if not len(rows):
            return rows
        there = column[rows] != empty
        if np.count_nonzero(there) == len(rows):
            self._idle = 0
            return rows
        live: Int64s = rows[there]
        self._idle = self._idle + 1 if 4 * len(live) < len(rows) else 0
        if self._idle > _PATIENCE and len(rows) > _FEW:
            self._has[rows[~there]] = False
            self._rows, self._idle = live, 0
        return live

    def __contains__(self, row: int) -> bool:
        return bool(self._has[row])


def alike(*columns: Int64s) -> list[Int64s]:
    """Positions int64[k] of the entries that are the same in all columns, one array a group.

    Args:
        columns: int64[n] each. Within a group, positions ascend.
    """
    if not len(columns[0]):
        return []
    order = np.lexsort(columns)
    differs = np.zeros(len(order) - 1, bool)
    for column in columns:
        differs |= np.diff(column[order]) != 0
    return np.split(order, np.flatnonzero(differs) + 1)


def occurrence(values: Int64s) -> Int64s:
    """How often each entry's value, at least 0, has come before it; int64[n]."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-1))
    counts = np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
    before = np.empty(len(values), np.int64)
    before[order] = counts
    return before
