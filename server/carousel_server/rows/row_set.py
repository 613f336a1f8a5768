"""Rows that have something to do, so that a tick looks at them and not at every slot."""

from __future__ import annotations

import numpy as np

from carousel_server.core.types import Int64s

_FEW = 64


class RowSet:
    """A set of rows; adding is exact, leaving happens later, when most rows have nothing any more.

    So a crowd that always steps together is not taken out and put back at every tick.
    """

    def __init__(self, slots: int) -> None:
        self._has = np.zeros(slots, np.bool_)
        # Ascending.
        self._rows: Int64s = np.empty(0, np.int64)

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
        if there.all():
            return rows
        live: Int64s = rows[there]
        if len(rows) > _FEW and 4 * len(live) < len(rows):
            self._has[rows[~there]] = False
            self._rows = live
        return live

    def __contains__(self, row: int) -> bool:
        return bool(self._has[row])
