"""Figures: named numbers, taken in rounds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Measured = dict[str, float]
"""What one measurement yields: quantity → value; units stand in the quantities' names."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that can be measured again and again."""

    name: str
    measure: Callable[[], Measured]


@dataclass(slots=True)
class Figures:
    """Results by workload and quantity, one value a round."""

    rounds: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def take(self, workloads: Iterable[Workload], rounds: int, say: Callable[[str], None]) -> None:
        """Measures every workload once a round, one after the other."""
        workloads = list(workloads)
        for number in range(1, rounds + 1):
            for workload in workloads:
                for quantity, value in workload.measure().items():
                    self.rounds[workload.name][quantity].append(value)
                say(f"round {number}/{rounds}: {workload.name}")

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Median, smallest and largest of each quantity."""
        return {
            name: {
                quantity: {
                    "median": _round(statistics.median(values)),
                    "min": _round(min(values)),
                    "max": _round(max(values)),
                    "rounds": len(values),
                }
                for quantity, values in quantities.items()
            }
            for name, quantities in self.rounds.items()
        }


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _round(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
