"""When a refused call is tried again, in virtual time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import carousel
from carousel._core.retry import RetryPolicy, RetrySchedule
from carousel._options import TLS, options_of
from carousel._sync.calls import Calls


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def calls_with(clock: Clock, **options: object) -> Calls:
    given_options = {"timeout_s": 10.0, "retries": RetryPolicy(), **options}
    return Calls(options_of("t", None, None, **given_options), clock.monotonic, clock.sleep)


def refusing(error: carousel.CarouselError, times: int) -> tuple[list[float], object]:
    lefts: list[float] = []

    def attempt(left_s: float) -> str:
        lefts.append(left_s)
        if len(lefts) <= times:
            raise error
        return "done"

    return lefts, attempt


def test_the_hint_is_a_minimum_and_the_deadline_is_kept() -> None:
    clock = Clock()
    lefts, attempt = refusing(carousel.QueueFullError("m", retry_after_s=1.0), 3)
    assert calls_with(clock).retrying(attempt) == "done"
    assert len(clock.slept) == 3
    assert all(1.0 <= seconds <= 1.5 for seconds in clock.slept)
    assert lefts[0] == 10.0
    assert lefts[-1] == pytest.approx(10.0 - sum(clock.slept))


def test_no_try_would_come_after_the_deadline() -> None:
    clock = Clock()
    lefts, attempt = refusing(carousel.SlabFullError("m", retry_after_s=4.0), 9)
    with pytest.raises(carousel.SlabFullError):
        calls_with(clock).retrying(attempt)
    assert clock.now_s < 10.0
    assert len(lefts) == len(clock.slept) + 1 < 4


def test_what_does_not_pass_is_not_tried_again() -> None:
    clock = Clock()
    lefts, attempt = refusing(carousel.SequenceGapError("m", retry_after_s=0.1), 9)
    with pytest.raises(carousel.SequenceGapError):
        calls_with(clock).retrying(attempt)
    assert len(lefts) == 1
    assert clock.slept == []


def test_what_the_server_refuses_for_the_moment_is_tried_until_the_timeout() -> None:
    clock = Clock()
    lefts, attempt = refusing(carousel.QueueFullError("m", retry_after_s=0.5), 12)
    assert calls_with(clock, timeout_s=30.0).retrying(attempt) == "done"
    assert len(lefts) == 13
    lefts, attempt = refusing(carousel.QueueFullError("m", retry_after_s=0.5), 1000)
    with pytest.raises(carousel.QueueFullError):
        calls_with(clock, timeout_s=30.0).retrying(attempt)
    assert 20 <= len(lefts) <= 60
    assert lefts[-1] < 0.75 + 0.5


@pytest.mark.parametrize("retries", [RetryPolicy(attempts=3), 2])
def test_a_number_of_tries_that_was_asked_for_is_kept(retries: RetryPolicy | int) -> None:
    lefts, attempt = refusing(carousel.QueueFullError("m", retry_after_s=0.1), 1000)
    with pytest.raises(carousel.QueueFullError):
        calls_with(Clock(), retries=retries).retrying(attempt)
    assert len(lefts) == 3


def test_a_server_that_never_answered_is_looked_for_a_few_times() -> None:
    lefts, attempt = refusing(carousel.ServerUnreachableError("m"), 1000)
    with pytest.raises(carousel.ServerUnreachableError):
        calls_with(Clock(), timeout_s=1000.0).retrying(attempt)
    assert len(lefts) == 5


def test_a_server_that_has_refused_a_call_is_looked_for_until_the_timeout() -> None:
    """It drains, is away for longer than five tries take, and comes back."""
    draining = carousel.DrainingError("m", retry_after_s=0.5)
    away = [carousel.ServerUnreachableError("m")] * 12
    answers = iter([draining, draining, *away])

    def attempt(_left_s: float) -> str:
        if (error := next(answers, None)) is not None:
            raise error
        return "done"

    assert calls_with(Clock(), timeout_s=60.0).retrying(attempt) == "done"


def test_a_hint_beyond_the_limit_ends_the_tries() -> None:
    schedule = RetrySchedule(RetryPolicy(max_delay_s=1.0), 100.0)
    assert schedule.delay_s(carousel.QueueFullError("m", retry_after_s=1.1), 0.0) is None


@settings(deadline=None)
@given(
    attempts=st.integers(1, 8),
    first=st.floats(0.001, 1.0),
    seed=st.integers(0, 1000),
    deadline=st.floats(0.0, 20.0),
)
def test_without_a_hint_it_backs_off_within_bounds(
    attempts: int, first: float, seed: int, deadline: float
) -> None:
    policy = RetryPolicy(attempts=attempts, first_delay_s=first, max_delay_s=2.0)
    schedule = RetrySchedule(policy, deadline, random.Random(seed))
    now, tries = 0.0, 1
    while (delay := schedule.delay_s(carousel.QueueFullError("m"), now)) is not None:
        least = min(first * 2 ** (tries - 1), 2.0)
        assert least <= delay <= 1.5 * least
        now += delay
        tries += 1
    assert tries <= attempts
    assert now < deadline or tries == 1


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"first_delay_s": 0.0}, {"first_delay_s": 2.0, "max_delay_s": 1.0}],
)
def test_policies_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"attempts|first_delay_s"):
        RetryPolicy(**wrong)


def test_options_are_completed_and_keep_secrets() -> None:
    options = options_of("host:1", "secret", True, 5.0, 2)
    assert options.tls == TLS()
    assert options.retries.attempts == 3
    assert options.metadata == (("authorization", "Bearer secret"),)
    assert "secret" not in repr(options)
    assert options_of("host:1", None, False, 5.0, 2).tls is None
    assert options_of("host:1", None, None, 5.0, 2).metadata == ()
    assert "private" not in repr(TLS(key=b"private"))
