"""Futures that follow one another: each outcome reaches the end, and only what passes is repeated."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import (
    MOST_TRIES,
    done,
    failed,
    follow,
    passes,
    settle,
    then,
    tried,
)

PARKED, LOST = CarouselError("SESSION_PARKED", "away"), CarouselError("LEASE_LOST", "taken")
GONE = CarouselError("SESSION_CLOSED", "closed")


def test_a_step_follows_a_value_and_an_error_goes_past_it() -> None:
    assert then(done(2), lambda n: done(n + 1)).result(0) == 3
    assert then(failed(GONE), done).exception(0) is GONE
    assert then(failed(GONE), done, lambda error: done(error is GONE)).result(0) is True


def test_nothing_happens_before_the_first_answer() -> None:
    first: Future[int] = Future()
    steps: list[int] = []
    end = then(first, lambda n: steps.append(n) or done(n))  # type: ignore[func-returns-value]
    assert not end.done()
    assert not steps
    first.set_result(7)
    assert (end.result(0), steps) == (7, [7])


def refuse(_value: object) -> Future[Any]:
    raise GONE


def test_what_a_step_raises_is_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    assert then(done(1), refuse).exception(0) is GONE
    assert then(failed(LOST), done, refuse).exception(0) is GONE
    error = then(done(0), lambda n: done(1 // n)).exception(0)
    assert isinstance(error, CarouselError)
    assert error.reason == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text


def test_a_future_that_was_cancelled_stays_so() -> None:
    asked: Future[int] = Future()
    assert asked.cancel()
    follow(asked, done(1))
    settle(asked, GONE)
    assert asked.cancelled()


def test_only_what_does_nothing_twice_is_repeated_after_a_lost_lease() -> None:
    assert passes(PARKED)
    assert passes(PARKED, harmless=False)
    assert passes(LOST)
    assert not passes(LOST, harmless=False)
    assert not passes(GONE)
    assert not passes(ValueError("no error of the registry"))


class Attempts:
    """Fails with each error in turn, then succeeds."""

    def __init__(self, *errors: CarouselError) -> None:
        self.errors = list(errors)
        self.count = 0

    def __call__(self) -> Future[str]:
        self.count += 1
        return failed(self.errors.pop(0)) if self.errors else done("here")


@pytest.mark.parametrize("failures", range(MOST_TRIES))
def test_what_passes_is_tried_again(failures: int) -> None:
    attempts = Attempts(*[PARKED] * failures)
    assert tried(attempts, passes).result(0) == "here"
    assert attempts.count == failures + 1


def test_it_ends_after_the_last_try_and_at_once_with_another_error() -> None:
    always = Attempts(*[PARKED] * 99)
    assert tried(always, passes).exception(0) is PARKED
    assert always.count == MOST_TRIES
    other = Attempts(PARKED, GONE)
    assert tried(other, passes).exception(0) is GONE
    assert other.count == 2


def test_an_attempt_that_raises_has_failed() -> None:
    assert tried(partial(refuse, None), passes).exception(0) is GONE
