"""Arrivals of the sequences figure: lengths, instants, and latencies that hide nothing."""

from __future__ import annotations

import numpy as np
import pytest
from bench.arrivals import FIXED, MEAN_STEPS, MOST_STEPS, VARIED, Journeys, lengths, poisson


def test_fixed_lengths() -> None:
    assert lengths(FIXED, 5, 1).tolist() == [MEAN_STEPS] * 5


def test_varied_lengths_have_the_mean_and_the_bounds() -> None:
    steps = lengths(VARIED, 100_000, 1)
    assert steps.dtype == np.int64
    assert steps.min() >= 1
    assert steps.max() == MOST_STEPS
    assert steps.mean() == pytest.approx(MEAN_STEPS, rel=0.03)
    assert np.median(steps) < MEAN_STEPS  # a long tail, as texts have


def test_a_seed_repeats_its_arrivals() -> None:
    assert np.array_equal(lengths(VARIED, 50, 7), lengths(VARIED, 50, 7))
    assert not np.array_equal(lengths(VARIED, 50, 7), lengths(VARIED, 50, 8))
    assert np.array_equal(poisson(100.0, 2.0, 7), poisson(100.0, 2.0, 7))


@pytest.mark.parametrize("rate_per_s", [3.0, 500.0])
def test_arrivals_come_at_their_rate_at_random(rate_per_s: float) -> None:
    instants = poisson(rate_per_s, 200.0, 1)
    gaps = np.diff(instants)
    assert (gaps >= 0).all()
    assert instants[-1] < 200.0
    assert len(instants) == pytest.approx(200 * rate_per_s, rel=0.1)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.15)  # as exponential gaps have


def test_latency_counts_from_the_instant_at_which_a_sequence_was_due() -> None:
    """A load that was busy for a second and sent late has the second in its latencies."""
    journeys = Journeys(np.asarray([10.0, 10.1, 10.2]), np.asarray([24, 24, 24]))
    journeys.done_s[:] = 11.2  # all were sent at 11.1
    summary = journeys.summary(now_s=12.0, from_s=0.0)
    assert summary["p50_ms"] == pytest.approx(1100)
    assert summary["ms_per_own_step_p50"] == pytest.approx(1100 / 24)


def test_what_has_not_ended_is_not_left_out() -> None:
    journeys = Journeys(np.asarray([0.0, 0.0, 0.0]), np.asarray([4, 4, 100]))
    journeys.done_s[:2] = 0.5
    assert journeys.unfinished == 1
    summary = journeys.summary(now_s=9.0, from_s=-1.0)
    assert summary["unfinished"] == 1
    assert summary["p99_ms"] > 8000
    assert summary["short_p99_ms"] == pytest.approx(500)


def test_the_warm_up_is_not_counted() -> None:
    journeys = Journeys(np.asarray([0.0, 5.0]), np.asarray([24, 24]))
    journeys.done_s[:] = (4.0, 5.1)
    summary = journeys.summary(now_s=6.0, from_s=1.0)
    assert summary["p99_ms"] == pytest.approx(100)
    assert "short_p50_ms" not in summary
