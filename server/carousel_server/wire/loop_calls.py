"""Calls from engine threads to the event loop. All that came since its last turn run in the next one."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class LoopCalls:
    """Calls that wait for the loop, in order.

    asyncio takes each call from another thread by itself: a lock, a byte through a socket, and a context.
    A tick has a call for each stream that it has outputs for, so all of them go together.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weak, since `_OF` holds this object for as long as there is the loop.
        self._loop = weakref.ref(loop)
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        # `_run` has been asked for, and has not begun.
        self._asked = False

    def put(self, callback: Callable[..., None], *args: Any) -> None:
        """Runs `callback(*args)` on the loop, unless the loop has ended. From any thread."""
        self._waiting.append((callback, args))
        if not self._asked:
            self._ask()

    def _ask(self) -> None:
        self._asked = True
        if (loop := self._loop()) is not None:
            with suppress(RuntimeError):  # the loop has ended: nobody is reading
                loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._asked = False  # first, so that whoever comes from now on asks again
        waiting = self._waiting
        try:
            for _ in range(len(waiting)):
                callback, args = waiting.popleft()
                callback(*args)
        finally:
            # Those that have come since, or that stood behind one that has raised. asyncio logs its error.
            if waiting and not self._asked:
                self._ask()


_OF: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopCalls] = weakref.WeakKeyDictionary()


def calls_of(loop: asyncio.AbstractEventLoop) -> LoopCalls:
    """Those of a loop. There is one for all doors, so that what an engine tells them keeps its order."""
    found = _OF.get(loop)
    if found is None:
        found = _OF[loop] = LoopCalls(loop)
    return found
