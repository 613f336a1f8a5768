"""One request of a caller to the core of a stream, and the wait for its end."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.tickets import Ticket
from carousel._home import HomeProcess

LONGEST_WAIT_S = 1.0
"""A signal that comes just as Python goes to sleep is seen only when that sleep ends: none is longer."""

T = TypeVar("T", bound=Ticket)


class Pending(Generic[T]):
    """An event for the core, which the stream's thread hands over. The caller's thread waits for its end.

    Attributes:
        ticket: the core's answer; None before, and if there was nothing to do.
        ended: whether the wait is over.
    """

    def __init__(self, event: Callable[[AttachCore], tuple[T | None, Effects]]) -> None:
        self.ticket: T | None = None
        self.ended = False
        self._event = event
        self._refused: Exception | None = None
        self._home = HomeProcess()
        # A bare lock, freed at the end: unlike an Event, it is never left half taken by a Ctrl-C.
        self._gate = threading.Lock()
        self._gate.acquire()

    def tell(self, core: AttachCore) -> Effects:
        """Hands the event to the core. Runs on the stream's thread."""
        try:
            self.ticket, effects = self._event(core)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            self._refused = error
            self.end()
            return Effects()
        if self.ticket is None:
            self.end()
        else:
            self.ticket.wake = self.end
        return effects

    def end(self) -> None:
        """Wakes the caller."""
        self.ended = True
        self._gate.release()

    def wait_done(self, timeout_s: float) -> T | None:
        """Waits for the end, good or bad; None if there was nothing to do.

        Raises:
            ReplyTimeoutError: it has not ended in time; what it was for may still happen.
            StoreUnavailableError: the same, and the server has said that its store is why.
            CarouselError: the core refused it, and nothing was sent.
            ClientClosedError: this is a forked child, in which nothing comes of it.
        """
        self._home.check()
        deadline_s = time.monotonic() + timeout_s
        while not self.ended:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                ticket = Ticket() if self.ticket is None else self.ticket
                raise ticket.overdue(timeout_s)
            self._gate.acquire(timeout=min(left_s, LONGEST_WAIT_S))
        if self._refused is not None:
            raise copy.copy(self._refused)
        return self.ticket

    def wait(self, timeout_s: float) -> T | None:
        """Waits for the end and raises its error. Raises as `wait_done`."""
        ticket = self.wait_done(timeout_s)
        if ticket is not None:
            ticket.check()
        return ticket
