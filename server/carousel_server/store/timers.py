"""Pauses that end on the store's thread, so that no thread waits for them."""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count

from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import failed, settle


class Timers:
    """Futures that are settled after a pause. `add` from any thread, the rest on the store's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, int, Future[None]]] = []
        self._numbers = count()
        self._closed: CarouselError | None = None

    @property
    def due_s(self) -> float:
        """When the first pause ends; infinity if there is none."""
        with self._lock:
            return self._waiting[0][0] if self._waiting else math.inf

    def add(self, delay_s: float) -> Future[None]:
        """A future that is settled after a pause."""
        with self._lock:
            if self._closed is not None:
                return failed(self._closed)
            future: Future[None] = Future()
            due_s = self._clock() + delay_s
            heapq.heappush(self._waiting, (due_s, next(self._numbers), future))
            return future

    def run(self) -> None:
        """Settles the futures whose pauses are over."""
        now = self._clock()
        due = []
        with self._lock:
            while self._waiting and self._waiting[0][0] <= now:
                due.append(heapq.heappop(self._waiting)[2])
        for future in due:
            settle(future, None)

    def close(self, error: CarouselError) -> None:
        """Fails all futures, and those of later calls, with an error."""
        with self._lock:
            waiting, self._waiting, self._closed = self._waiting, [], error
        for _, _, future in waiting:
            settle(future, error)
