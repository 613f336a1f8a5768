"""Turns of the loop: whose message is read in one, and how all of its steps go to the engines together.

gRPC wakes every stream that has a message. A tenant with many streams would have all of them read in one
turn of the loop. A message of another tenant would wait for that several times on its way through the server.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from carousel_server.core.backlogged import Backlogged
from carousel_server.core.ports import Ack, EnginePort, Replay, StepBlock, Unbind, ask

LONGEST_WAIT_S = 0.1
"""A message of a backlogged tenant is read after this time. It may be an ack, or the end of a session."""

_LOOK_S = 0.001
"""How often those that wait for a backlogged tenant are looked at."""


class Turns:
    """Whose message is read next. Used on one loop only.

    While streams of several tenants are open, each tenant has one message read in a turn of the loop. With
    one tenant nothing waits. Messages of a backlogged tenant wait until it has fewer steps to run.

    Attributes:
        needed: a message has to wait for its `turn`, whatever tenant it is of.
    """

    def __init__(self, backlogged: Backlogged) -> None:
        self._backlogged = backlogged
        # Open streams of each tenant.
        self._streams: Counter[str] = Counter()
        # Tenants that have had their message in this turn of the loop.
        self._served: set[str] = set()
        # Streams that wait for a later turn, and since when; only tenants with any.
        self._waiting: dict[str, deque[tuple[asyncio.Future[None], float]]] = {}
        # `_next` runs in the next turn of the loop; `_look` runs after a while.
        self._soon = self._later = False
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
        backlogged = tenant in self._backlogged.tenants
        if not self.needed and not backlogged:
            return
        loop = asyncio.get_running_loop()
        if not self._soon:
            self._soon = True
            loop.call_soon(self._next)
        if not backlogged and tenant not in self._served and tenant not in self._waiting:
            self._served.add(tenant)
            return
        turn = loop.create_future()
        self._waiting.setdefault(tenant, deque()).append((turn, loop.time()))
        self.needed = True
        await turn

    def _next(self) -> None:
        """The next turn of the loop has begun: serves those that have waited longest."""
        loop = asyncio.get_running_loop()
        self._soon = False
        self._served.clear()
        for tenant, turns in list(self._waiting.items()):
            backlogged = tenant in self._backlogged.tenants
            while turns and tenant not in self._served:
                turn, since_s = turns[0]
                if backlogged and not turn.done() and loop.time() < since_s + LONGEST_WAIT_S:
                    break
                turns.popleft()
                if not turn.done():  # else its stream has ended
                    turn.set_result(None)
                    self._served.add(tenant)
            if not turns:
                del self._waiting[tenant]
        self.needed = len(self._streams) > 1 or bool(self._waiting)
        if self._served:
            self._soon = True
            loop.call_soon(self._next)
        elif self._waiting and not self._later:
            self._later = True
            loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._later = False
        self._next()


class Submissions:
    """Blocks of steps that came in this turn of the loop. On the loop only.

    gRPC wakes all streams that have a message in one turn. One submission of all their blocks wakes the
    engine once, and its tick finds all of them.

    Attributes:
        loop: where the turns are.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._blocks: dict[EnginePort, list[StepBlock]] = {}

    def add(self, engine: EnginePort, block: StepBlock) -> None:
        """Submits a block at the end of this turn."""
        is_first = not self._blocks
        self._blocks.setdefault(engine, []).append(block)
        if is_first:
            self.loop.call_soon(self.flush)

    def ask(self, engine: EnginePort, command: Ack | Replay | Unbind) -> None:
        """Submits another command, behind all blocks that came before it."""
        self.flush()
        ask(engine, command)

    def flush(self) -> None:
        """Submits what has come."""
        if self._blocks:
            submitted, self._blocks = self._blocks, {}
            for engine, blocks in submitted.items():
                engine.submit_steps(blocks)
