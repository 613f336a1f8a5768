"""A store's clock: Unix seconds that never jump."""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Unix seconds of one instant, plus the monotonic time since then.

    A change of the machine's clock does not affect it, so it expires no session. Any thread may read it.
    """

    def __init__(
        self,
        unix_s: float | None = None,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unix_s`: the time now. None uses the machine's clock."""
        self._clock = clock
        self._offset_s = 0.0
        self.set(wall() if unix_s is None else unix_s)

    def __call__(self) -> float:
        """The time in Unix seconds."""
        return self._offset_s + self._clock()

    def set(self, unix_s: float) -> None:
        """Sets the time to `unix_s`."""
        self._offset_s = unix_s - self._clock()
