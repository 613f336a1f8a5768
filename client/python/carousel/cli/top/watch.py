"""Reads the metrics of several servers at the same time, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from carousel.cli.exposition import Scrape, fetch

from .view import ServerView, between

_MOST_THREADS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One server at one instant.

    Attributes:
        address: of its metrics.
        view: its numbers. None before the second read, and while it is away.
        away: why it cannot be read. "" if it can.
        away_s: how long it has been away.
    """

    address: str
    view: ServerView | None = None
    away: str = ""
    away_s: float = 0.0


class Watch:
    """The last read of one server. Each `sample` reads again, also after the server was away."""

    def __init__(
        self,
        address: str,
        read: Callable[[str], Scrape] = fetch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self._read, self._clock = read, clock
        self._last: tuple[float, Scrape] | None = None
        self._lost_s: float | None = None

    def sample(self) -> Sample:
        """Reads the server. The numbers are those since the last read that succeeded."""
        try:
            scrape = self._read(self.address)
        except OSError as error:
            now_s = self._clock()
            self._lost_s = now_s if self._lost_s is None else self._lost_s
            # After a time without a server, a rate over all of it would say little.
            self._last = None
            return Sample(self.address, away=cause(error), away_s=now_s - self._lost_s)
        now_s = self._clock()
        last, self._last, self._lost_s = self._last, (now_s, scrape), None
        if last is None:
            return Sample(self.address)
        view = between(last[1], scrape, max(now_s - last[0], 1e-3), time.time())
        return Sample(self.address, view)


def cause(error: OSError) -> str:
    """An error of the connection in a few words."""
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


class Watches:
    """Several servers. One that does not answer delays the others by its time-out at most."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches
        self._pool = ThreadPoolExecutor(min(len(watches), _MOST_THREADS), thread_name_prefix="top")

    def samples(self) -> list[Sample]:
        """Reads all servers at the same time."""
        return list(self._pool.map(Watch.sample, self._watches))

    def close(self) -> None:
        """Ends the threads. It does not wait for servers that do not answer."""
        self._pool.shutdown(wait=False, cancel_futures=True)
