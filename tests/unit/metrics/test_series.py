"""Histograms count arrays as they count single values, and never show half of one."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel_server.metrics.series import Histogram, Scalar

BOUNDS = (0.001, 0.01, 0.1, 1.0)
seconds = st.floats(0.0, 10.0) | st.sampled_from(BOUNDS)


def test_a_scalar_counts_and_sets() -> None:
    scalar = Scalar()
    scalar.add()
    scalar.add(2.5)
    assert scalar.value == 3.5
    scalar.set(1.0)
    assert scalar.value == 1.0


def test_writers_lose_no_count() -> None:
    scalar = Scalar()

    def write() -> None:
        for _ in range(20_000):
            scalar.add()

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert scalar.value == 80_000


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe(0.01)
    histogram.observe_all(np.array([0.01, 0.1]))
    counts, total = histogram.snapshot()
    assert counts.tolist() == [0, 2, 3, 3, 3]
    assert total == pytest.approx(0.12)


def test_what_is_above_every_bound_counts_as_infinite() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe(1.5)
    histogram.observe_all(np.array([7.0]))
    assert histogram.snapshot()[0].tolist() == [0, 0, 0, 0, 2]


def test_an_empty_array_changes_nothing() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe_all(np.empty(0))
    counts, total = histogram.snapshot()
    assert counts.tolist() == [0] * 5
    assert total == 0.0


def test_values_that_wait_for_their_buckets_are_in_every_scrape() -> None:
    histogram = Histogram(BOUNDS)
    for number in range(1, 40):
        histogram.observe_all(np.full(100, 0.5))
        counts, total = histogram.snapshot()
        assert counts[-1] == 100 * number
        assert total == pytest.approx(50.0 * number)


@given(st.lists(st.lists(seconds, max_size=20), max_size=5))
def test_arrays_count_as_single_values_do(batches: list[list[float]]) -> None:
    whole, single = Histogram(BOUNDS), Histogram(BOUNDS)
    for batch in batches:
        whole.observe_all(np.array(batch, dtype=np.float64))
        for value in batch:
            single.observe(value)
    values = [value for batch in batches for value in batch]
    expected = [sum(value <= bound for value in values) for bound in (*BOUNDS, np.inf)]
    for histogram in (whole, single):
        counts, total = histogram.snapshot()
        assert counts.tolist() == expected
        assert total == pytest.approx(sum(values))


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0)])
def test_bounds_must_rise(bounds: tuple[float, ...]) -> None:
    with pytest.raises(AssertionError):
        Histogram(bounds)


def test_a_scrape_never_sees_half_of_an_array() -> None:
    """Every observation is 1.0, so at any instant the sum equals the count."""
    histogram = Histogram(BOUNDS)
    ones = np.ones(64)
    writing = threading.Event()

    def write() -> None:
        for _ in range(2000):
            histogram.observe_all(ones)
            writing.set()

    writer = threading.Thread(target=write)
    writer.start()
    writing.wait()
    seen = 0
    while writer.is_alive():
        counts, total = histogram.snapshot()
        assert counts[-1] == total
        assert counts[-1] >= seen, "a counter never falls"
        seen = int(counts[-1])
    writer.join()
    assert histogram.snapshot()[0][-1] == 2000 * 64
