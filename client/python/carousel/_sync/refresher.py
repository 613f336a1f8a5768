"""Work that is done again and again while a blocking client is open."""

from __future__ import annotations

import threading
from collections.abc import Callable

PERIOD_S = 3.0
SHORTEST_PAUSE_S = 0.5


class Refresher:
    """Does something every PERIOD_S, and sooner where that is wanted, on a thread of its own."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh = refresh
        self._wanted = threading.Event()
        self._closed = threading.Event()
        thread = threading.Thread(target=self._run, name="carousel-refresher", daemon=True)
        thread.start()

    def hurry(self) -> None:
        """Does it next in SHORTEST_PAUSE_S at most."""
        self._wanted.set()

    def close(self) -> None:
        """Ends the thread. It may be looking a name up, which is not waited for."""
        self._closed.set()
        self._wanted.set()

    def _run(self) -> None:
        while not self._closed.wait(SHORTEST_PAUSE_S):
            self._wanted.wait(PERIOD_S - SHORTEST_PAUSE_S)
            self._wanted.clear()
            if not self._closed.is_set():
                self._refresh()
