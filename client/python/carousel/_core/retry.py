"""When to try again: the server's hint, a jittered back-off, and the call's deadline."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from carousel._error_bases import (
    CarouselError,
    ClientSideError,
    ConnectionLostError,
    ReplyTimeoutError,
)

_RECONNECT_MAX_S = 1.0
"""Longest pause between two looks for a server that is away, where it has named none."""

_MOST_DOUBLINGS = 60
"""More would leave the range of a float in time; max_delay_s has long been reached."""

_LONGEST_PAUSE_S = 1.0
"""Between two looks for a server: one that is back should not wait for its clients."""


_MOST_LOOKS = 5
"""Tries of a call that no server has answered. The target may be wrong, and the caller should know soon."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How refused calls are tried again. Steps carry a seq, so that a repeat never counts twice.

    Attributes:
        attempts: most tries of one call, the first included; 1 never tries again. None sets no number:
            a call that the server refuses for the moment is tried again until its timeout, and a server
            that has never answered the call is looked for 5 times.
        first_delay_s: pause before the second try where the server names none; doubles each time.
        max_delay_s: longest pause that is waited for; a longer hint of the server ends the tries.
        reconnect_s: how long each session, and each generation, looks for its server again after a
            break, until it is bound again; 0 gives up at once, and so does `attempts` of 1. It counts
            from the end of a drain. A server under another address takes a second or two to be found.
    """

    attempts: int | None = None
    first_delay_s: float = 0.05
    max_delay_s: float = 5.0
    reconnect_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; it must be at least 1")
        if not 0 < self.first_delay_s <= self.max_delay_s:
            raise ValueError("first_delay_s must be above 0 and at most max_delay_s")
        if not self.reconnect_s >= 0:
            raise ValueError(f"reconnect_s is {self.reconnect_s}; it must not be negative")


def backoff_s(
    policy: RetryPolicy,
    tries: int,
    error: CarouselError,
    rng: random.Random,
    longest_s: float = _LONGEST_PAUSE_S,
) -> float:
    """How long to wait before a try that comes after so many others without success.

    A hint of the server is a minimum, so the jitter goes on top of it: up to half as much again, lest
    all refused clients come back at one instant.
    """
    least_s = error.retry_after_s
    if least_s is None:
        doublings = min(tries, _MOST_DOUBLINGS)
        least_s = min(policy.first_delay_s * 2.0**doublings, policy.max_delay_s, longest_s)
    return least_s * (1 + 0.5 * rng.random())


class RetrySchedule:
    """The tries of one call. Time comes in as an argument."""

    def __init__(
        self,
        policy: RetryPolicy,
        deadline_s: float,
        rng: random.Random | None = None,
        *,
        reconnecting: bool = False,
        passing: frozenset[str] = frozenset(),
    ) -> None:
        """`reconnecting`: a lost connection is tried again too, and only the deadline counts. `passing`:
        reasons that are tried again though they are not retryable as such.
        """
        self._policy = policy
        self._reconnecting = reconnecting
        self._deadline_s = deadline_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no secrecy
        self._passing = passing
        self._tries = 1
        # True once a server has refused the call: one that is away now will come back.
        self._refused = False
        # The server's word on its store, at the last try that it answered.
        self._store_fault: CarouselError | None = None

    def delay_s(self, error: CarouselError, now_s: float) -> float | None:
        """How long to wait before the next try; None if the call should fail with `error`.

        A hint that is longer than max_delay_s ends the tries, unless it is a server that is looked for.
        """
        if error.reason == "STORE_UNAVAILABLE":
            self._store_fault = error
        self._refused |= not isinstance(error, ClientSideError)
        if self._tries >= self._most_tries:
            return None
        lost = self._reconnecting and isinstance(error, ConnectionLostError)
        if not (error.retryable or lost or error.reason in self._passing):
            return None
        delay_s = self._delay_s(error)
        if now_s + delay_s >= self._deadline_s:
            return None
        self._tries += 1
        return delay_s

    @property
    def _most_tries(self) -> float:
        if self._reconnecting:
            return math.inf
        if self._policy.attempts is not None:
            return self._policy.attempts
        return math.inf if self._refused else _MOST_LOOKS

    def put_off(self, deadline_s: float) -> None:
        """Gives the tries until a later instant."""
        self._deadline_s = max(self._deadline_s, deadline_s)

    def store_fault(self, error: CarouselError) -> CarouselError | None:
        """What a call that ran out of time is told instead: the store's fault at a try before, if any."""
        return self._store_fault if isinstance(error, ReplyTimeoutError) else None

    def _delay_s(self, error: CarouselError) -> float:
        policy = self._policy
        if self._reconnecting:
            return backoff_s(policy, self._tries - 1, error, self._rng)
        if error.retry_after_s is not None and error.retry_after_s > policy.max_delay_s:
            return math.inf
        return backoff_s(policy, self._tries - 1, error, self._rng, policy.max_delay_s)
