"""Thousands of schedules: whatever goes wrong, each step counts once and nothing is silent."""

from __future__ import annotations

import os

import pytest

from .runner import explain, run_many
from .schedule import run

SCHEDULES = int(os.environ.get("SIMULATED_SCHEDULES", "10000"))
PARTS = 4


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_repeated_or_silent(part: int) -> None:
    summary = run_many(range(1 + part, 1 + SCHEDULES, PARTS))
    if summary.failed:
        pytest.fail(explain(summary.failed[0]), pytrace=False)
    assert summary.steps > summary.schedules, "the applications got hardly anything"


def test_a_seed_is_a_schedule() -> None:
    first, second = run(7, tracing=True), run(7, tracing=True)
    assert first == second
    assert first.trace, "nothing was traced"
