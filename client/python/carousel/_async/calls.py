"""Calls of the asyncio client: deadlines, typed errors and tries."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from carousel._core.arguments import bounded_timeout_s
from carousel._core.retry import RetrySchedule
from carousel._error_bases import CarouselError, ServerUnreachableError, TlsError
from carousel._home import HomeLoop
from carousel._options import Options
from carousel._tls import disagreement
from carousel._watch import ServerWatch

from .primitives import away_from_the_loop, sleep

T = TypeVar("T")


class AsyncCalls:
    """Makes calls as one client's options say. Tests replace the clock and the sleep.

    Attributes:
        options: the client's.
        home: the place where the client may be used.
        watch: logs that a server was lost, and found again.
    """

    def __init__(
        self,
        options: Options,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = sleep,
    ) -> None:
        self.options = options
        self.home = HomeLoop()
        self.watch = ServerWatch()
        self.monotonic = monotonic
        self.sleep = sleep

    def cancel(self, call: Any) -> None:
        """Cancels one of gRPC's calls. In a forked child it does nothing: the call is the parent's."""
        if not self.home.left:
            call.cancel()

    async def disagreement(self, error: CarouselError) -> TlsError | None:
        """What TLS has to do with an error; see `carousel._tls.disagreement`."""
        if not isinstance(error, ServerUnreachableError):
            return None
        options = self.options
        return await away_from_the_loop(disagreement, error, options.target.first, options.tls)

    def timeout_s(self, timeout_s: float | None) -> float:
        """The caller's, or the client's."""
        return bounded_timeout_s(self.options.timeout_s if timeout_s is None else timeout_s)

    async def retrying(
        self, attempt: Callable[[float], Awaitable[T]], timeout_s: float | None = None
    ) -> T:
        """Calls `attempt` with the seconds that are left, again after each error that passes."""
        deadline_s = self.monotonic() + self.timeout_s(timeout_s)
        schedule = RetrySchedule(self.options.retries, deadline_s)
        while True:
            try:
                self.home.check_open()
                return await attempt(max(deadline_s - self.monotonic(), 0.0))
            except CarouselError as error:
                delay_s = schedule.delay_s(error, self.monotonic())
                if delay_s is None:
                    better = schedule.store_fault(error) or await self.disagreement(error)
                    if better is not None:
                        raise better from error
                    raise
                if not self.options.target.several:
                    self.watch.looking(error, self.options.target.text)
            await self.sleep(delay_s)
