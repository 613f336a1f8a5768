"""Thousands of schedules: whatever goes wrong, each step counts once and nothing is silent."""

from __future__ import annotations

import os

import pytest

from .runner import explain, run_on_all_cores
from .schedule import run

SCHEDULES = int(os.environ.get("SIMULATED_SCHEDULES", "10000"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_lost_repeated_or_silent() -> None:
    schedules = steps = 0
    for summary in run_on_all_cores(1, SCHEDULES):
        if summary.failed:
            pytest.fail(explain(summary.failed[0]), pytrace=False)
        schedules += summary.schedules
        steps += summary.steps
    assert schedules == SCHEDULES
    assert steps > schedules, "the applications got hardly anything"


def test_a_seed_is_a_schedule() -> None:
    first, second = run(7, tracing=True), run(7, tracing=True)
    assert first == second
    assert first.trace, "nothing was traced"
