"""Messages of streams take turns by tenants.

gRPC wakes every stream that has a message. A tenant with many streams would have all of them read in one
turn of the loop. A message of another tenant would wait for that several times on its way through the server.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class Turns:
    """Whose message is read next. Used on one loop only.

    While streams of several tenants are open, each tenant has one message read in a turn of the loop. With
    one tenant nothing waits.

    Attributes:
        needed: a message has to wait for its `turn`.
    """

    def __init__(self) -> None:
        # Open streams of each tenant.
        self._streams: Counter[str] = Counter()
        # Tenants that have had their message in this turn of the loop.
        self._served: set[str] = set()
        # Streams that wait for a later turn; only tenants with any.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self.needed = False

    def enter(self, tenant: str) -> None:
        """A stream of the tenant has begun."""
        self._streams[tenant] += 1
        self.needed = len(self._streams) > 1

    def leave(self, tenant: str) -> None:
        """It has ended."""
        self._streams[tenant] -= 1
        if not self._streams[tenant]:
            del self._streams[tenant]
        self.needed = len(self._streams) > 1 or bool(self._waiting)

    async def turn(self, tenant: str) -> None:
        """Returns when the next message of the tenant may be taken."""
        if not self.needed:
            return
        loop = asyncio.get_running_loop()
        if not self._served:
            loop.call_soon(self._next)
        if tenant not in self._served:
            self._served.add(tenant)
            return
        turn = loop.create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        await turn

    def _next(self) -> None:
        """The next turn of the loop has begun: serves those that have waited longest."""
        self._served.clear()
        for tenant, turns in list(self._waiting.items()):
            while turns and tenant not in self._served:
                turn = turns.popleft()
                if not turn.done():  # else its stream has ended
                    turn.set_result(None)
                    self._served.add(tenant)
            if not turns:
                del self._waiting[tenant]
        self.needed = len(self._streams) > 1 or bool(self._waiting)
        if self._served:
            asyncio.get_running_loop().call_soon(self._next)
