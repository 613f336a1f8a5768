"""Latencies in buckets that grow by a constant ratio: bounded memory, and sums of processes add up."""

from __future__ import annotations

import math
from collections.abc import Mapping

SMALLEST_S = 1e-5
RATIO = 1.05
"""Two neighbouring quantiles differ by at least this factor: the error of a quantile is below 5 %."""


class Histogram:
    """Counts by bucket; bucket b holds latencies up to SMALLEST_S · RATIO**b."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = {int(bucket): count for bucket, count in (counts or {}).items()}

    def add(self, seconds: float) -> None:
        """Counts one latency."""
        ratio = max(seconds, SMALLEST_S) / SMALLEST_S
        bucket = math.ceil(math.log(ratio) / math.log(RATIO))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Adds another's counts."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def quantile(self, fraction: float) -> float | None:
        """The latency in seconds that `fraction` of the counted ones do not exceed; None if empty."""
        left = math.ceil(fraction * self.count)
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return float(SMALLEST_S * RATIO**bucket)
        return None

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self._counts.values())

    def as_json(self) -> dict[str, int]:
        """Counts by bucket, as the constructor takes them."""
        return {str(bucket): count for bucket, count in self._counts.items()}
