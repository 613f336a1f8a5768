"""How much one tick may run while several tenants have work. Decides only: no torch, no clock, no I/O.

A step that arrives during a tick waits for its end. A tenant alone is served best by large batches, and waits
for its own steps only. With other tenants, a step would wait for theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

# Tenants share a tick until this long after the last change from one to another.
_SHARED_S = 1.0
# A budget changes by at most these factors a tick. A pause of the machine halves it, and it soon recovers.
_LEAST_FACTOR, _MOST_FACTOR = 0.5, 1.1

LEAST_ROWS = 32
"""A smaller batch takes nearly as long, since each tick has a fixed cost."""


class Sharing:
    """Whether several tenants have work, or had it within the last second."""

    def __init__(self) -> None:
        self._last: str | None = None
        self._changed_s = -math.inf

    def worked(self, tenants: Iterable[str], now: float) -> None:
        """These tenants have steps to run at `now`, in seconds."""
        for tenant in tenants:
            if tenant != self._last:
                if self._last is not None:
                    self._changed_s = now
                self._last = tenant

    def shared(self, now: float) -> bool:
        """True while one tenant's work can delay another's."""
        return now - self._changed_s < _SHARED_S


class TickBudget:
    """The number of steps that take about `target_s`, by what earlier ticks took.

    Each tick corrects it by target over time. So it needs no model of what a step costs. That depends on the
    device, the layers, the chunks and other load.

    Attributes:
        most: steps of a tick that is not shared.
    """

    def __init__(self, target_s: float, least: int, most: int) -> None:
        """The budget begins at `most` steps and is never below `least`, or `most` if that is less.

        Args:
            target_s: seconds that a tick should take at most. 0 keeps the budget at `most`.
            least: steps.
            most: steps.
        """
        self._target_s = target_s
        self._least, self.most = min(least, most), most
        self._steps = float(most)

    @property
    def steps(self) -> int:
        """How many steps the next shared tick may run."""
        return int(self._steps)

    def ran(self, steps: int, seconds: float) -> None:
        """A shared tick ran so many steps in so many seconds.

        A tick of few steps shows what a tick costs, and not what a step does, so it changes nothing.
        """
        if not self._target_s or steps < self._least:
            return
        factor = self._target_s / max(seconds, 1e-9)
        if factor < 1.0:
            wanted = min(self._steps, steps) * max(factor, _LEAST_FACTOR)
        elif 2 * steps >= self._steps:
            wanted = self._steps * min(factor, _MOST_FACTOR)
        else:
            return
        self._steps = min(max(wanted, self._least), self.most)
