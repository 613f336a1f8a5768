"""The registry keeps its own rules."""

from __future__ import annotations

import re

import pytest

from carousel_server.metrics import METRICS, Declaration, Kind, Owner

OURS = [told for told in METRICS.values() if told.owner is not Owner.PROCESS]
BASE_UNITS = {"seconds", "bytes"}


@pytest.mark.parametrize("told", OURS, ids=lambda told: told.name)
def test_names_follow_the_rules(told: Declaration) -> None:
    assert re.fullmatch(r"(carousel|grpc_server)_[a-z]+(_[a-z]+)*", told.name)
    assert (told.kind is Kind.COUNTER) == told.name.endswith("_total")
    assert (told.kind is Kind.HISTOGRAM) == bool(told.buckets)
    if told.unit in BASE_UNITS:
        assert told.exposed_unit == told.unit, "a base unit ends the name"
    assert told.help.endswith("."), "help is a sentence"


@pytest.mark.parametrize("told", METRICS.values(), ids=lambda told: told.name)
def test_no_label_can_grow_with_clients(told: Declaration) -> None:
    grow = {"session", "session_id", "tenant", "peer", "client", "id"}
    if told.name.startswith("carousel_tenant_"):
        grow.remove(
            "tenant"
        )  # of these the operator chooses the values: see test_tenant_metrics.py
    assert not grow & set(told.labels)


@pytest.mark.parametrize("told", OURS, ids=lambda told: told.name)
def test_an_engine_metric_belongs_to_a_model(told: Declaration) -> None:
    assert (told.owner is Owner.ENGINE) == ("model" in told.labels)


def test_buckets_rise() -> None:
    for told in METRICS.values():
        assert list(told.buckets) == sorted(set(told.buckets))


def test_step_buckets_resolve_a_step_on_a_device_and_a_second_in_a_queue() -> None:
    edges = METRICS["carousel_step_seconds"].buckets
    assert edges[0] == 0.0001
    assert edges[-1] == 2.5
    assert len(edges) == 17


def test_the_unit_line_is_only_for_names_that_end_with_the_unit() -> None:
    assert METRICS["carousel_steps_total"].exposed_unit == "steps"
    assert METRICS["carousel_sessions_opened_total"].exposed_unit == ""
    assert METRICS["carousel_sessions_opened_total"].base_name == "carousel_sessions_opened"
