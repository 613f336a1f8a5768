"""What the wire tells of itself, on its way to the process that has the metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from carousel_server.core.metering import Readings, WireMetrics


class PostedMetrics:
    """Implements `WireMetrics`: collects, and sends a few times a second, when the loop's lag is told."""

    def __init__(self, post: Callable[..., None], ask: Callable[[str], Future[Any]]) -> None:
        """`ask` asks a question of the process that has the metrics."""
        self._post = post
        self._ask = ask
        self._told: list[tuple[str, Sequence[Any]]] = []

    def started(self, service: str, method: str, kind: str) -> None:
        """A call has begun."""
        self._told.append(("started", (service, method, kind)))

    def handled(self, service: str, method: str, kind: str, code: str, seconds: float) -> None:
        """A call has ended, well or not."""
        self._told.append(("handled", (service, method, kind, code, seconds)))

    def refused(self, reason: str, count: int = 1) -> None:
        """Calls, or messages or steps of a stream, were answered with an error."""
        self._told.append(("refused", (reason, count)))

    def quota_refused(self, tenant: str, quota: str, count: int = 1) -> None:
        """Of these, those of a tenant that has reached a quota, named as its setting."""
        self._told.append(("quota_refused", (tenant, quota, count)))

    def redirected(self, count: int = 1) -> None:
        """Clients were sent to another replica."""
        self._told.append(("redirected", (count,)))

    def streams(self, count: int) -> None:
        """Level: streams of sessions open now."""
        self._told.append(("streams", (count,)))

    def connection_closed(self) -> None:
        """A connection was closed, because its client abandoned too many calls."""
        self._told.append(("connection_closed", ()))

    def turned_away(self, what: str, count: int) -> None:
        """The transport refused what never became a call."""
        self._told.append(("turned_away", (what, count)))

    def reloaded(self, what: str, *, ok: bool) -> None:
        """Files with tokens or certificates have changed, and were read again or found broken."""
        self._told.append(("reloaded", (what, ok)))

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop ran a timer."""
        self._told.append(("loop_lag", (seconds,)))
        self.flush()

    def readings(self) -> Future[Readings]:
        """The numbers of the whole server."""
        return self._ask("readings")

    def flush(self) -> None:
        """Sends what was told since the last time."""
        if self._told:
            self._post("metered", self._told)
            self._told = []


class SharedMetrics:
    """The metrics of the wire, told by several front ends: levels add up, all else is as it comes."""

    def __init__(self, metrics: WireMetrics) -> None:
        self._metrics = metrics
        self._streams: dict[object, int] = {}

    def take(self, teller: object, told: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Takes what one front end has collected."""
        for verb, arguments in told:
            if verb == "streams":
                self._level(teller, *arguments)
            elif verb == "reloaded":
                what, ok = arguments
                self._metrics.reloaded(what, ok=ok)
            else:
                getattr(self._metrics, verb)(*arguments)

    def readings(self) -> Future[Readings]:
        """The numbers of the whole server."""
        return self._metrics.readings()

    def forget(self, teller: object) -> None:
        """A front end is gone, and its streams with it."""
        self._level(teller, 0)

    def _level(self, teller: object, count: int) -> None:
        self._streams[teller] = count
        if not count:
            del self._streams[teller]
        self._metrics.streams(sum(self._streams.values()))
