"""How long applications had waited for something that they had asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.tracks import Track


@dataclass(frozen=True)
class Pauses:
    """Of many sessions the longest wait of each, in seconds."""

    sessions: int
    p50_s: float
    p99_s: float
    max_s: float


def longest(tracks: Sequence[Track], begin_s: float, end_s: float) -> list[float]:
    """For each session the longest of its pauses that ended in a time span of the monotonic clock."""
    return [
        max((took for since, took in track.pauses if begin_s < since + took <= end_s), default=0.0)
        for track in tracks
    ]


def summary(values: Sequence[float]) -> Pauses:
    """Percentiles by the nearest rank, which never says less than was measured; NaN of nothing."""
    ordered = sorted(values)

    def rank(share: float) -> float:
        if not ordered:
            return math.nan
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

    return Pauses(len(ordered), rank(0.50), rank(0.99), rank(1.0))
