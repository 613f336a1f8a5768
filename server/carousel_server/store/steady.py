"""The time of a store: Unix seconds that pass evenly."""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Unix seconds of one instant, and the monotonic time since then.

    A step of the machine's clock does not change it, so no session expires by one. Any thread may read it.
    """

    def __init__(
        self,
        unix_s: float | None = None,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unix_s`: the time now; by the machine's clock if None."""
        self._clock = clock
        self._offset_s = 0.0
        self.set(wall() if unix_s is None else unix_s)

    def __call__(self) -> float:
        """Unix seconds."""
        return self._offset_s + self._clock()

    def set(self, unix_s: float) -> None:
        """It is `unix_s` now."""
        self._offset_s = unix_s - self._clock()
