"""Pauses are found by when they were, and percentiles by rank."""

from __future__ import annotations

import math

import pytest

from tests.chaos.tracks import StepTrack
from tests.cluster.pauses import Pauses, longest, summary


def track(*pauses: tuple[float, float]) -> StepTrack:
    return StepTrack("s", "async", 0, pauses=list(pauses))


def test_the_longest_of_those_that_ended_in_the_span() -> None:
    tracks = [
        track((0.0, 9.0), (10.0, 1.0), (11.0, 2.0), (20.0, 7.0)),
        track((9.5, 0.4)),
        track((9.0, 6.0)),
        track((9.0, 6.5)),
        track(),
    ]
    assert longest(tracks, 10.0, 15.0) == [2.0, 0.0, 6.0, 0.0, 0.0]


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert summary(values[::-1]) == Pauses(100, 50.0, 99.0, 100.0)
    assert math.isnan(summary([]).p99_s)
    assert summary([0.5]) == Pauses(1, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("asked", [1, 3])
def test_a_pause_begins_when_the_application_waits(
    asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    waiting = track()
    waiting.keep = lambda part: None  # type: ignore[method-assign]
    waiting.asks(asked)
    now[0] = 101.0
    waiting.asks(1)  # one is waited for already
    for _ in range(asked + 1):
        now[0] += 2.0
        waiting.got([0])
    now[0] += 50.0  # nothing is asked for
    waiting.asks(1)
    now[0] += 1.0
    waiting.got([0])
    took = [seconds for _, seconds in waiting.pauses]
    assert took == [3.0, *[2.0] * asked, 1.0]
