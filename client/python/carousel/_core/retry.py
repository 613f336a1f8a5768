"""When to try again: the server's hint, a jittered back-off, and the call's deadline."""

from __future__ import annotations

import random
from dataclasses import dataclass

from carousel._error_bases import CarouselError, ConnectionLostError

_MOST_DOUBLINGS = 60
"""More would leave the range of a float in time; max_delay_s has long been reached."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How refused calls are tried again. Steps carry a seq, so that a repeat never counts twice.

    Attributes:
        attempts: most tries of one call, the first included; 1 never tries again.
        first_delay_s: pause before the second try where the server names none; doubles each time.
        max_delay_s: longest pause that is waited for; a longer hint of the server ends the tries.
        reconnect_s: longest time to look for the server again after a connection has broken; 0 gives
            up at once. Has no effect if `attempts` is 1.
    """

    attempts: int = 5
    first_delay_s: float = 0.05
    max_delay_s: float = 5.0
    reconnect_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; it must be at least 1")
        if not 0 < self.first_delay_s <= self.max_delay_s:
            raise ValueError("first_delay_s must be above 0 and at most max_delay_s")
        if not self.reconnect_s >= 0:
            raise ValueError(f"reconnect_s is {self.reconnect_s}; it must not be negative")


class RetrySchedule:
    """The tries of one call. Time comes in as an argument."""

    def __init__(
        self,
        policy: RetryPolicy,
        deadline_s: float,
        rng: random.Random | None = None,
        *,
        reconnecting: bool = False,
    ) -> None:
        """`reconnecting`: a lost connection is tried again too, and only the deadline counts."""
        self._policy = policy
        self._reconnecting = reconnecting
        self._deadline_s = deadline_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no secrecy
        self._tries = 1

    def delay_s(self, error: CarouselError, now_s: float) -> float | None:
        """How long to wait before the next try; None if the call should fail with `error`.

        A hint is a minimum, so the jitter goes on top of it: up to half as much again, lest all
        refused clients come back at one instant.
        """
        if self._reconnecting:
            passes = error.retryable or isinstance(error, ConnectionLostError)
        else:
            passes = error.retryable and self._tries < self._policy.attempts
        if not passes:
            return None
        doublings = min(self._tries - 1, _MOST_DOUBLINGS)
        least_s = min(self._policy.first_delay_s * 2.0**doublings, self._policy.max_delay_s)
        if error.retry_after_s is not None:
            least_s = error.retry_after_s
        delay_s = least_s * (1 + 0.5 * self._rng.random())
        if least_s > self._policy.max_delay_s or now_s + delay_s >= self._deadline_s:
            return None
        self._tries += 1
        return delay_s
