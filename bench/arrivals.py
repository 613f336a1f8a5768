"""Open-loop arrivals: when sequences come, how long they are, and how long each took from when it was due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MEAN_STEPS = 24
MOST_STEPS = 330
SHORT_STEPS = 12
_SIGMA = 0.8

FIXED, VARIED = "fixed 24", "mean 24, at most 330"
KINDS = (VARIED, FIXED)


def lengths(kind: str, count: int, seed: int) -> np.ndarray:
    """Steps of each of `count` sequences, int64: all MEAN_STEPS, or a clipped log-normal of that mean."""
    if kind == FIXED:
        return np.full(count, MEAN_STEPS, np.int64)
    draw = np.random.default_rng(seed)
    steps = draw.lognormal(np.log(MEAN_STEPS) - _SIGMA**2 / 2, _SIGMA, count)
    return np.clip(np.rint(steps), 1, MOST_STEPS).astype(np.int64)


def poisson(rate_per_s: float, seconds: float, seed: int) -> np.ndarray:
    """Instants float64[n], ascending, in 0 … seconds, of a Poisson process."""
    draw = np.random.default_rng(seed)
    gaps = draw.exponential(1 / rate_per_s, int(rate_per_s * seconds * 1.5) + 50)
    instants = np.cumsum(gaps)
    return np.asarray(instants[instants < seconds])


@dataclass(slots=True)
class Journeys:
    """Sequences on their way: due, and done or not.

    Attributes:
        due_s: float64[n], when each was to be sent. Latency is counted from there, so that a load that
            falls behind its own schedule cannot hide it.
        steps: int64[n].
        done_s: float64[n], nan until the last output has come.
    """

    due_s: np.ndarray
    steps: np.ndarray
    done_s: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.done_s = np.full(len(self.due_s), np.nan)

    @property
    def unfinished(self) -> int:
        """How many have not ended."""
        return int(np.isnan(self.done_s).sum())

    def summary(self, now_s: float, from_s: float) -> dict[str, float]:
        """Latencies of what was due after `from_s`; what has not ended counts as if it ended now."""
        counted = self.due_s >= from_s
        ended_s = np.where(np.isnan(self.done_s), now_s, self.done_s)[counted]
        steps = self.steps[counted]
        took_ms = (ended_s - self.due_s[counted]) * 1e3
        short = took_ms[steps <= SHORT_STEPS]
        measured = {
            "p50_ms": _percentile(took_ms, 50),
            "p90_ms": _percentile(took_ms, 90),
            "p99_ms": _percentile(took_ms, 99),
            "ms_per_own_step_p50": _percentile(took_ms / steps, 50),
            "unfinished": float(np.isnan(self.done_s[counted]).sum()),
        }
        if len(short):
            measured["short_p50_ms"] = _percentile(short, 50)
            measured["short_p99_ms"] = _percentile(short, 99)
        return measured


def _percentile(values: np.ndarray | Sequence[float], share: float) -> float:
    return float(np.percentile(values, share))
