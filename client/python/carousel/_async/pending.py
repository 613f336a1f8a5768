"""One request of a task to the core of a stream, and the wait for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.tickets import Ticket

T = TypeVar("T", bound=Ticket)


class AsyncPending(Generic[T]):
    """An event for the core, which the stream hands over at once. The task waits for its end.

    Attributes:
        ticket: the core's answer; None before, and if there was nothing to do.
    """

    def __init__(self, event: Callable[[AttachCore], tuple[T | None, Effects]]) -> None:
        self.ticket: T | None = None
        self._event = event
        self._done = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the wait is over."""
        return self._done.is_set()

    def tell(self, core: AttachCore) -> Effects:
        """Hands the event to the core. Raises what the core refuses it with."""
        self.ticket, effects = self._event(core)
        if self.ticket is None:
            self._done.set()
        else:
            self.ticket.wake = self._done.set
        return effects

    async def wait_done(self, timeout_s: float) -> T | None:
        """Waits for the end, good or bad; None if there was nothing to do.

        Raises:
            ReplyTimeoutError: it has not ended in time; what it was for may still happen.
            StoreUnavailableError: the same, and the server has said that its store is why.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._done.wait()
        except TimeoutError:
            ticket = Ticket() if self.ticket is None else self.ticket
            raise ticket.overdue(timeout_s) from None
        return self.ticket

    async def wait(self, timeout_s: float) -> T | None:
        """Waits for the end and raises its error. Raises as `wait_done`."""
        ticket = await self.wait_done(timeout_s)
        if ticket is not None:
            ticket.check()
        return ticket
