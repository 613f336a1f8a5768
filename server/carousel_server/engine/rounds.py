"""Blocks of clients that pipeline: several steps of one session may come at once."""

from __future__ import annotations

import numpy as np

from carousel_server.core.types import Int64s

_NEVER = np.iinfo(np.int64).max


class Rounds:
    """Divides rows into rounds. A round has one row of each session at most, in order of arrival.

    Attributes:
        sessions: int64[m], the sessions' rows in the table, ascending.
    """

    def __init__(self, rows: Int64s, first_seqs: Int64s) -> None:
        """Takes the sessions of the rows, and their first seqs; int64[n] both."""
        self._order = np.argsort(rows, kind="stable")
        ordered = rows[self._order]
        self._starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        self._sizes = np.diff(self._starts, append=len(rows))
        self.sessions = ordered[self._starts]
        # In the order of sessions: the first seq of each row, its round, and whether it is still to come.
        self._firsts = first_seqs[self._order]
        self._round = np.arange(len(rows)) - np.repeat(self._starts, self._sizes)
        self._left = np.ones(len(rows), bool)
        self._next = 0

    def take(self) -> Int64s:
        """Places of the next round's rows, ascending; none at the end."""
        while self._left.any():
            chosen = self._left & (self._round == self._next)
            self._next += 1
            if chosen.any():
                return self._remove(chosen)
        return np.empty(0, np.int64)

    def take_behind(self, expected: Int64s) -> Int64s:
        """Places of rows whose session gets no further with any row that is left; ascending.

        Args:
            expected: int64[m], the step that each of `sessions` needs next.
        """
        lowest = np.minimum.reduceat(np.where(self._left, self._firsts, _NEVER), self._starts)
        return self._remove(self._left & np.repeat(lowest > expected, self._sizes))

    def _remove(self, chosen: np.ndarray) -> Int64s:
        self._left &= ~chosen
        return np.sort(self._order[chosen])
