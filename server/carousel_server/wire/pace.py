"""Many streams that are written to from one loop: they take turns with whoever makes what they carry.

A message costs about as much with eight tokens as with one: the server's loop, which holds the interpreter
that an engine in the same process needs, and the client. So the streams write in rounds. After its message a
stream rests until the loop's thread has been busy for a quarter of the time since the round began: the more
streams, the more tokens a message has. With few streams that is so before the next token, and nobody rests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_TIMES_BUSY = 4.0
"""How long a round takes, over the time for which the loop's thread was busy in it."""

_DEAREST_MESSAGE_S = 0.00025
"""Whatever else keeps the thread busy, a message counts for no more: nobody rests for others' work."""

_SHORTEST_REST_S = 0.002
"""A loop's timers are no finer than a millisecond, so what is shorter is not worth one."""


class Pace:
    """When the streams of one loop may write again. Used on that loop only."""

    def __init__(
        self,
        longest_s: float,
        clock: Callable[[], float] = time.monotonic,
        busy: Callable[[], float] = time.thread_time,
    ) -> None:
        """Everybody may write at first.

        Args:
            longest_s: of a round, however busy the loop is; 0 for no rounds.
            clock: what time it is.
            busy: for how long the calling thread has had the processor; seconds, as all.
        """
        self._longest_s = longest_s
        self._clock = clock
        self._busy = busy
        # When this round began, how long the thread had been busy by then, and what was written since.
        self._began_s = clock()
        self._busy_s = busy()
        self._messages = 0
        # Of those who rest until the next round.
        self._resting: list[asyncio.Future[None]] = []

    def write(self) -> None:
        """To be called before a message is written."""
        self._messages += 1

    def rest(self) -> asyncio.Future[None] | None:
        """To be called after it: what is set once its stream may write again; None if at once.

        Whoever needs the stream before may set it.
        """
        if not self._resting:
            left_s = self._left_s()
            if left_s <= 0.0:
                self._begin()
            if left_s <= _SHORTEST_REST_S:
                return None
            asyncio.get_running_loop().call_later(left_s, self._look)
        resting = asyncio.get_running_loop().create_future()
        self._resting.append(resting)
        return resting

    def _left_s(self) -> float:
        """How long the round still takes, as far as is known."""
        busy_s = min(self._busy() - self._busy_s, self._messages * _DEAREST_MESSAGE_S)
        return min(_TIMES_BUSY * busy_s, self._longest_s) - (self._clock() - self._began_s)

    def _look(self) -> None:
        if (left_s := self._left_s()) > 0.0:
            asyncio.get_running_loop().call_later(left_s, self._look)
            return
        self._begin()
        rested, self._resting = self._resting, []
        for resting in rested:
            if not resting.done():
                resting.set_result(None)

    def _begin(self) -> None:
        self._began_s, self._busy_s, self._messages = self._clock(), self._busy(), 0
