"""Numbers and histograms that any thread may write and read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from threading import Lock

import numpy as np

from carousel_server.core.types import Float64s, Int64s


class Scalar:
    """The number of one label combination of a counter or gauge.

    Writers use a lock so that no count is lost. A scrape reads `value` without it.
    """

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._lock = Lock()

    def add(self, amount: float = 1.0) -> None:
        """Adds to the number."""
        with self._lock:
            self.value += amount

    def set(self, value: float) -> None:
        """Sets the number."""
        self.value = value


_MOST_WAITING = 1024
"""Values of a histogram that wait to be sorted into buckets. So many together cost little each."""


class Histogram:
    """Counts observations into buckets, whole arrays at a time.

    With the lock, a scrape never reads the counts of an array without its sum.
    """

    __slots__ = ("_bounds", "_counts", "_edges", "_lock", "_sum", "_waiting", "_waiting_count")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Builds an empty histogram.

        Args:
            bounds: inclusive upper bounds in ascending order, without +Inf.
        """
        self._bounds = tuple(bounds)
        self._edges = np.asarray(bounds, dtype=np.float64)
        assert self._edges.size > 0, "a histogram needs a bucket"
        assert bool(np.all(np.diff(self._edges) > 0)), "bounds must be in ascending order"
        self._counts: Int64s = np.zeros(self._edges.size + 1, dtype=np.int64)
        self._sum = 0.0
        # Arrays that no bucket has yet, and how many values they have.
        self._waiting: list[Float64s] = []
        self._waiting_count = 0
        self._lock = Lock()

    @property
    def bounds(self) -> tuple[float, ...]:
        """Inclusive upper bounds, without +Inf."""
        return self._bounds

    def observe(self, value: float) -> None:
        """Counts one value."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value

    def observe_all(self, values: Float64s) -> None:
        """Counts float64[n]. Nobody may change the array afterwards."""
        if not values.size:
            return
        with self._lock:
            self._waiting.append(values)
            self._waiting_count += values.size
            if self._waiting_count >= _MOST_WAITING:
                self._sort()

    def snapshot(self) -> tuple[Int64s, float]:
        """Cumulative counts int64[buckets + 1], of which the last is +Inf, and the sum."""
        with self._lock:
            self._sort()
            return np.cumsum(self._counts), self._sum

    def _sort(self) -> None:
        """Puts the waiting values into their buckets. The lock is held."""
        if not self._waiting:
            return
        values = np.concatenate(self._waiting)
        self._waiting, self._waiting_count = [], 0
        # "left", because le is inclusive: a value equal to a bound is in that bound's bucket.
        buckets = self._edges.searchsorted(values, side="left")
        self._counts += np.bincount(buckets, minlength=self._counts.size)
        self._sum += float(values.sum())
