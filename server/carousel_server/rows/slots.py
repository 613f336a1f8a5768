"""Which rows of the slab are whose."""

from __future__ import annotations

import numpy as np

from carousel_server.core.types import Int64s, SessionRef


class Slots:
    """A free list of rows with generations. Used on the engine's thread only.

    A row's generation grows when the row is freed, so whatever still names the old session (a late
    command, a late result) is told apart from the row's next session by one comparison.
    """

    def __init__(self, capacity: int) -> None:
        assert capacity >= 1
        self.capacity = capacity
        # int64[capacity]: how often each row was freed. Grows for ever, never reused.
        self.generation: Int64s = np.zeros(capacity, np.int64)
        # bool[capacity]: rows that are taken.
        self.taken = np.zeros(capacity, np.bool_)
        # int64[capacity]: the first `_spare` are free; the last of these is taken next, so that a small
        # load stays in a few warm rows.
        self._free: Int64s = np.arange(capacity - 1, -1, -1)
        self._spare = capacity

    @property
    def used(self) -> int:
        """Number of rows taken."""
        return self.capacity - self._spare

    def allocate(self) -> SessionRef | None:
        """Takes a row, or None when all are taken."""
        if not self._spare:
            return None
        self._spare -= 1
        row = int(self._free[self._spare])
        self.taken[row] = True
        return SessionRef(row, int(self.generation[row]))

    def free(self, ref: SessionRef) -> None:
        """Gives a row back; `ref` and its copies are stale from now on."""
        assert self.is_live(ref), f"{ref} is not live"
        self.taken[ref.row] = False
        self.generation[ref.row] += 1
        self._free[self._spare] = ref.row
        self._spare += 1

    def is_live(self, ref: SessionRef) -> bool:
        """True while `ref` names the session that its row belongs to."""
        return bool(self.taken[ref.row]) and int(self.generation[ref.row]) == ref.generation

    def live(self, rows: Int64s, generations: Int64s) -> np.ndarray:
        """The same for many sessions; bool[n]."""
        return np.asarray(self.taken[rows] & (self.generation[rows] == generations))

    def check_integrity(self) -> None:
        """Asserts that every row is either free or taken, and none is both or twice."""
        free = self._free[: self._spare]
        assert not self.taken[free].any(), "a free row is taken"
        assert int(self.taken.sum()) == self.used, "a row is free twice"
        known = self.taken.copy()
        known[free] = True
        assert known.all(), "a row is lost"
