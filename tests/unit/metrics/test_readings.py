"""The numbers that the console reads: the same as a scrape, and by tenant."""

from __future__ import annotations

import numpy as np
from support.fake_engine import ECHO

from carousel_server.metrics import METRICS, Metrics
from carousel_server.metrics.readings import HISTOGRAMS, SCALARS, TENANTS

NAME = ECHO.name


def measured(*tenants: str) -> Metrics:
    metrics = Metrics(tenants=tenants)
    engine = metrics.engine(ECHO, slots=8)
    engine.tick(3, 4, {"a": 5, "b": 2}, 0.002)
    engine.stepped(np.array([0.001]), np.array([0.0015, 0.004, 9.0]))
    engine.tenant_sessions({"a": 2, "b": 1})
    engine.gauges(
        resident=3, generating=1, pending_steps=4, inbox=0, undurable_steps=0, misplaced=0
    )
    return metrics


def test_every_name_is_a_declared_metric():
    assert {*SCALARS, *HISTOGRAMS, *TENANTS, *TENANTS.values()} <= METRICS.keys()


def test_the_numbers_of_the_server():
    read = measured("a").wire().readings().result().models[NAME]
    assert read.keys() == {*SCALARS, *HISTOGRAMS}
    expected = {
        "carousel_steps_total": 7, "carousel_ticks_total": 1, "carousel_tokens_total": 0,
        "carousel_sessions": 3, "carousel_sessions_generating": 1, "carousel_queue_steps": 4,
        "carousel_slots_capacity": 8,
    }  # fmt: skip
    assert {name: read[name] for name in SCALARS} == expected


def test_histograms_have_cumulative_counts_and_one_more_for_what_is_beyond():
    read = measured().wire().readings().result().models[NAME]["carousel_step_seconds"]
    bounds, counts = read["bounds"], read["counts"]
    assert len(counts) == len(bounds) + 1
    by_bound = dict(zip(bounds, counts, strict=False))
    assert (by_bound[0.001], by_bound[0.002], by_bound[0.005], counts[-1]) == (0, 1, 2, 3)
    assert read["sum"] == 9.0055


def test_a_tenant_has_its_own_numbers_and_those_without_series_have_none():
    tenants = measured("a").wire().readings().result().tenants
    assert tenants == {"a": {NAME: {"carousel_steps_total": 5, "carousel_sessions": 2}}}


def test_the_clock_only_grows():
    wire = measured().wire()
    first, second = wire.readings().result().at_s, wire.readings().result().at_s
    assert second >= first
