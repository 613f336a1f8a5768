"""When to try again: the server's hint, a jittered back-off, and the call's deadline."""

from __future__ import annotations

import random
from dataclasses import dataclass

from carousel._error_bases import CarouselError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How refused calls are tried again. Steps carry a seq, so that a repeat never counts twice.

    Attributes:
        attempts: most tries of one call, the first included; 1 never tries again.
        first_delay_s: pause before the second try where the server names none; doubles each time.
        max_delay_s: longest pause that is waited for; a longer hint of the server ends the tries.
    """

    attempts: int = 5
    first_delay_s: float = 0.05
    max_delay_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; it must be at least 1")
        if not 0 < self.first_delay_s <= self.max_delay_s:
            raise ValueError("first_delay_s must be above 0 and at most max_delay_s")


class RetrySchedule:
    """The tries of one call. Time comes in as an argument."""

    def __init__(
        self, policy: RetryPolicy, deadline_s: float, rng: random.Random | None = None
    ) -> None:
        self._policy = policy
        self._deadline_s = deadline_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no secrecy
        self._tries = 1

    def delay_s(self, error: CarouselError, now_s: float) -> float | None:
        """How long to wait before the next try; None if the call should fail with `error`.

        A hint is a minimum, so the jitter goes on top of it: up to half as much again, lest all
        refused clients come back at one instant.
        """
        if not error.retryable or self._tries >= self._policy.attempts:
            return None
        backoff_s = self._policy.first_delay_s * float(2 ** (self._tries - 1))
        least_s = min(backoff_s, self._policy.max_delay_s)
        if error.retry_after_s is not None:
            least_s = error.retry_after_s
        delay_s = least_s * (1 + 0.5 * self._rng.random())
        if least_s > self._policy.max_delay_s or now_s + delay_s >= self._deadline_s:
            return None
        self._tries += 1
        return delay_s
