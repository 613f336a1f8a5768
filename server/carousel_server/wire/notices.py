"""Log lines about floods: one line for each kind and interval, however many calls there are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_INTERVAL_S = 5.0


class Notices:
    """Writes the first notice of a kind at once, then at most one line in each interval."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        # By kind: when its last line was written, and how many notices have had none since.
        self._told: dict[str, tuple[float, int]] = {}

    def warn(self, kind: str, text: str, peer: str) -> None:
        """Says `text` and which peer it was. `kind` is one of a few constants."""
        now_s = self._clock()
        last_s, unsaid = self._told.get(kind, (now_s - _INTERVAL_S, 0))
        if now_s - last_s < _INTERVAL_S:
            self._told[kind] = (last_s, unsaid + 1)
            return
        self._told[kind] = (now_s, 0)
        more = f"; {unsaid} more since the last such line" if unsaid else ""
        self._log.warning("%s%s", text, more, extra={"kind": kind, "peer": peer})
