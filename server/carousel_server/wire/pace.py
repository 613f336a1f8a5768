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
        # When this round began, and how long the thread had been busy by then.
        self._began_s = clock()
        self._busy_s = busy()
        # Set for those who rest when the next round begins; None if nobody rests.
        self._next_round: asyncio.Event | None = None

    async def rest(self) -> None:
        """Returns once the stream that has just been written to may be written to again."""
        if self._next_round is None:
            left_s = self._left_s()
            if left_s <= 0.0:
                self._begin()
            if left_s <= _SHORTEST_REST_S:
                return
            self._next_round = asyncio.Event()
            asyncio.get_running_loop().call_later(left_s, self._look)
        await self._next_round.wait()

    def _left_s(self) -> float:
        """How long the round still takes, as far as is known."""
        busy_s = self._busy() - self._busy_s
        return min(_TIMES_BUSY * busy_s, self._longest_s) - (self._clock() - self._began_s)

    def _look(self) -> None:
        if (left_s := self._left_s()) > 0.0:
            asyncio.get_running_loop().call_later(left_s, self._look)
            return
        self._begin()
        assert self._next_round is not None
        self._next_round.set()
        self._next_round = None

    def _begin(self) -> None:
        self._began_s, self._busy_s = self._clock(), self._busy()
