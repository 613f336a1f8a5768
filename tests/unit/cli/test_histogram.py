import math
import random

from hypothesis import given
from hypothesis import strategies as st

from carousel.cli.demo.tally import RATIO, SMALLEST_S, Histogram

latencies = st.floats(min_value=SMALLEST_S, max_value=1000.0)


def filled(values):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def test_an_empty_histogram_has_no_quantiles():
    assert Histogram().quantile(0.5) is None
    assert Histogram().count == 0


def test_latencies_below_the_smallest_count_as_the_smallest():
    assert filled([0.0, 1e-9]).quantile(1.0) == SMALLEST_S


@given(st.lists(latencies, min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_never_below_the_true_one_and_at_most_a_ratio_above(values, fraction):
    true = sorted(values)[math.ceil(fraction * len(values)) - 1]
    found = filled(values).quantile(fraction)
    assert true * (1 - 1e-9) <= found <= true * RATIO * (1 + 1e-9)


@given(st.lists(latencies, max_size=40), st.lists(latencies, max_size=40))
def test_merging_is_counting_together(first, second):
    merged = filled(first)
    merged.merge(filled(second))
    assert merged.as_json() == filled(first + second).as_json()


def test_it_travels_as_json_unchanged():
    rng = random.Random(1)
    histogram = filled(rng.expovariate(100) for _ in range(500))
    copy = Histogram(histogram.as_json())
    assert copy.count == 500
    assert copy.quantile(0.99) == histogram.quantile(0.99)
