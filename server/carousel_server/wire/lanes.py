"""Limits of calls: how many run at a time, and how long each may take to send its request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from carousel_server.core.errors import CarouselError

from .messages import message_timeout
from .options import WireOptions

T = TypeVar("T")

MOST_PROBES = 1024
"""Calls of the health service at a time. They have a lane of their own, so that no load stops them."""

PATIENCE_S = 1.0
"""At the limit, a call that has waited this long for its own message makes room for a new call."""

PROBE_PATIENCE_S = 0.05
"""The same for probes. Their messages are a few bytes, and anybody can start a thousand without a token."""


class Lane:
    """Calls that share one limit. On the loop only."""

    def __init__(self, limit: int, options: WireOptions, patience_s: float) -> None:
        """`patience_s`: at the limit, a call that waits longer for its message makes room for a new one."""
        self._limit = limit
        self._patience_s = patience_s
        self._message_timeout_s = options.message_timeout_s
        self._retry_after_s = options.retry_after_s
        self._running = 0
        # Calls whose message has not arrived, oldest first, with the loop's time at their start.
        self._waiting: dict[asyncio.Task[Any], float] = {}
        # Of those, the ones that were told to end, and why.
        self._ended: dict[asyncio.Task[Any], CarouselError] = {}

    @property
    def running(self) -> int:
        """Calls that were admitted and have not left."""
        return self._running

    def enter(self) -> None:
        """Counts a call in; `leave` must follow.

        Raises:
            CarouselError: TOO_MANY_CALLS at the limit.
        """
        if self._running >= self._limit and not self._make_room():
            raise self._too_many()
        self._running += 1

    def leave(self) -> None:
        """Counts a call out."""
        self._running -= 1

    async def message(self, read: Callable[[], Awaitable[T]]) -> T:
        """The request of a call, which `read` waits for. `read` may be cancelled.

        Raises:
            CarouselError: MESSAGE_TIMEOUT if it does not arrive whole in time, TOO_MANY_CALLS if the
                call had to make room before.
        """
        task = asyncio.current_task()
        assert task is not None, "each call runs in a task"
        self._waiting[task] = asyncio.get_running_loop().time()
        try:
            return await read()
        except asyncio.CancelledError:
            error = self._ended.get(task)
            if error is None:
                raise
            task.uncancel()
            raise error from None
        finally:
            self._waiting.pop(task, None)
            self._ended.pop(task, None)

    def sweep(self) -> None:
        """Ends calls whose message is late. To be called now and then: a timer for each call costs more."""
        oldest_s = asyncio.get_running_loop().time() - self._message_timeout_s
        while self._end_oldest(oldest_s, message_timeout(self._message_timeout_s)):
            pass

    def _make_room(self) -> bool:
        """Ends the call that has waited longest for its message, if it has waited for too long."""
        since_s = asyncio.get_running_loop().time() - self._patience_s
        return self._end_oldest(since_s, self._too_many())

    def _end_oldest(self, since_s: float, error: CarouselError) -> bool:
        """Ends the call that has waited longest, if it has since `since_s` or longer."""
        task, started_s = next(iter(self._waiting.items()), (None, 0.0))
        if task is None or started_s > since_s:
            return False
        del self._waiting[task]
        self._ended[task] = error
        task.cancel()
        return True

    def _too_many(self) -> CarouselError:
        return CarouselError(
            "TOO_MANY_CALLS",
            f"{self._limit} calls are running",
            metadata={"limit": self._limit},
            retry_after_s=self._retry_after_s,
        )
