"""Where each cell fits, as sentences that follow from the measured numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import geometric_mean

from .results import Fit, Quality, Recall, Speed, Structure

REMEMBERS = 0.95
"""Accuracy from which a gap counts as bridged."""
CLOSE = 0.03
"""Relative difference below which two qualities count as nearly equal."""


def _reach(recall: Sequence[Recall]) -> dict[str, int]:
    """The longest gap that a cell bridges together with all shorter ones. 0 if there is none."""
    reach = {entry.cell: 0 for entry in recall}
    broken: set[str] = set()
    for entry in sorted(recall, key=lambda entry: entry.gap):
        if entry.accuracy < REMEMBERS:
            broken.add(entry.cell)
        elif entry.cell not in broken:
            reach[entry.cell] = entry.gap
    return reach


def _cost(speed: Sequence[Speed]) -> dict[str, float]:
    """Time of a step relative to the fastest cell's, the geometric mean over the batches."""
    fastest = {s.batch: min(o.median_s for o in speed if o.batch == s.batch) for s in speed}
    cells = dict.fromkeys(entry.cell for entry in speed)
    return {
        cell: geometric_mean(s.median_s / fastest[s.batch] for s in speed if s.cell == cell)
        for cell in cells
    }


class _Facts:
    """The numbers for the sentences, by cell."""

    def __init__(
        self,
        structure: Sequence[Structure],
        quality: Sequence[Quality],
        speed: Sequence[Speed],
        recall: Sequence[Recall],
    ) -> None:
        self.bits = {entry.cell: entry.bits_per_byte for entry in quality}
        self.state = {entry.cell: entry.state_bytes for entry in structure}
        self.cost = _cost(speed)
        self.reach = _reach(recall)
        self.asked = max((entry.gap for entry in recall), default=0)
        self.best_bits = min(self.bits.values(), default=math.inf)
        self.least_state = min(self.state.values())

    def behind(self, cell: str) -> float | None:
        """How much worse than the best text model, relative. None without a text model."""
        return self.bits[cell] / self.best_bits - 1 if cell in self.bits else None

    def strengths(self, cell: str) -> tuple[str, ...]:
        found, behind = [], self.behind(cell)
        if behind == 0:
            found.append(f"best text model ({self.best_bits:.3f} bits per byte)")
        elif behind is not None and behind <= CLOSE:
            found.append(f"within {behind:.1%} of the best text model")
        if self.cost[cell] == min(self.cost.values()):
            found.append("fastest step")
        if self.state[cell] == self.least_state:
            found.append(f"smallest state ({self.state[cell]:,} bytes)")
        if self.reach.get(cell):
            more = " and more" if self.reach[cell] == self.asked else ""
            found.append(f"recalls over {self.reach[cell]}{more} steps")
        return tuple(found)

    def weaknesses(self, cell: str) -> tuple[str, ...]:
        found, behind = [], self.behind(cell)
        if behind is None:
            found.append("no trained text model")
        elif behind > CLOSE:
            found.append(f"{behind:.1%} more bits per byte than the best")
        if self.cost[cell] > 1:
            found.append(f"step takes {self.cost[cell]:.1f}× the fastest")
        if self.state[cell] > self.least_state:
            found.append(f"{self.state[cell] / self.least_state:.0f}× the smallest state")
        if self.asked and self.reach.get(cell, 0) < self.asked:
            reached = self.reach.get(cell, 0)
            found.append(
                f"forgets beyond {reached} steps" if reached else "recalls nothing reliably"
            )
        return tuple(found)

    def fits(self, cell: str) -> str:
        """The rule: memory first, then quality, then price."""
        longest = max(self.reach.values(), default=0)
        remembers = self.reach.get(cell, 0) == longest
        cheapest = self.cost[cell] == min(self.cost.values())
        behind, smallest = self.behind(cell), self.state[cell] == self.least_state
        if not remembers:
            return "short memories on the tightest budget" if cheapest else "nothing measured here"
        if behind == 0:
            return "all of it: best and cheapest" if cheapest else "where quality counts most"
        if behind is not None and behind <= CLOSE:
            return (
                "many sessions: nearly the best quality for the least state"
                if smallest
                else "where a step may cost more than its state"
            )
        return "cheap steps with a long memory" if cheapest else "long memories of simple things"


def fits(
    structure: Sequence[Structure],
    quality: Sequence[Quality],
    speed: Sequence[Speed],
    recall: Sequence[Recall],
) -> tuple[Fit, ...]:
    """Strengths, weaknesses and a verdict for every cell, in the order of `structure`."""
    facts = _Facts(structure, quality, speed, recall)
    return tuple(
        Fit(
            entry.cell,
            facts.strengths(entry.cell),
            facts.weaknesses(entry.cell),
            facts.fits(entry.cell),
        )
        for entry in structure
    )
