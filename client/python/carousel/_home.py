"""The owner of a client: the process that made it, and for asyncio the event loop that uses it."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from ._error_bases import ClientClosedError, EventLoopError


class HomeProcess:
    """The process that made a client. A copy in a forked child has no threads and no connection.

    Attributes:
        closed: the client was closed.
    """

    def __init__(self) -> None:
        self.closed = False
        self._pid = os.getpid()

    @property
    def left(self) -> bool:
        """True in a forked child."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises ClientClosedError in a forked child, where a call would never return."""
        if self.left:
            raise ClientClosedError(
                "the client belongs to another process; make a new one after a fork"
            )

    def check_open(self) -> None:
        """Raises ClientClosedError if the client was closed, else as `check`."""
        if self.closed and not self.left:
            raise ClientClosedError("the client was closed")
        self.check()


class HomeLoop(HomeProcess):
    """The process of an asyncio client, and the event loop that used it first."""

    def __init__(self) -> None:
        super().__init__()
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Raises ClientClosedError in a forked child, and EventLoopError outside the client's loop.

        The first call sets the loop.
        """
        super().check()
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        if self._loop is not running:
            raise EventLoopError("the client belongs to another event loop, which used it first")


def check_gevent() -> None:
    """Raises EventLoopError if gevent has patched the threads without gRPC's hook.

    gRPC's threads would then wait for locks that only gevent's hub releases, and a call would never return.
    """
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return
    cygrpc = sys.modules.get("grpc._cython.cygrpc")
    if not getattr(cygrpc, "g_gevent_activated", True):
        raise EventLoopError(
            "gevent has patched this process, and gRPC's hook for it is not installed"
        )
