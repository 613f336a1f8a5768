"""Engine and wire write into the registry what the ports say."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from carousel_protos.errors import ERRORS
from carousel_server.core.metering import EngineMetrics, WireMetrics
from carousel_server.core.moves import Why
from carousel_server.core.types import ModelView
from carousel_server.metrics import METRICS, Kind, Metrics, Owner
from carousel_server.metrics.wire import known_calls

from .conftest import Read

INFERENCE = "carousel.v1.InferenceService"


@pytest.fixture
def engine(metrics: Metrics, model: ModelView) -> EngineMetrics:
    return metrics.engine(model, slots=64)


@pytest.fixture
def wire(metrics: Metrics) -> WireMetrics:
    return metrics.wire()


def test_build_info_names_what_runs(read: Read) -> None:
    assert read("carousel_build_info", version="1.2.3", torch="2.13.0", device="cpu") == 1


def test_build_info_refuses_a_label_it_does_not_have() -> None:
    with pytest.raises(AssertionError):
        Metrics(build={"colour": "red"})


def test_every_declared_metric_is_exposed_from_the_start_and_nothing_else(
    metrics: Metrics, engine: EngineMetrics, wire: WireMetrics
) -> None:
    assert engine
    assert wire
    exposed = {family.name: family for family in text_string_to_metric_families(metrics.expose())}
    declared = {told.base_name: told for told in METRICS.values()}
    assert exposed.keys() == declared.keys()
    for name, family in exposed.items():
        told = declared[name]
        assert family.samples, name
        assert family.type == told.kind
        if told.owner is not Owner.PROCESS:
            assert family.documentation == told.help
        for sample in family.samples:
            le = {"le"} if sample.name.endswith("_bucket") else set()
            assert sample.labels.keys() == set(told.labels) | le


def test_there_is_no_created_noise(metrics: Metrics, engine: EngineMetrics) -> None:
    assert engine
    assert "_created" not in metrics.expose()


def test_a_tick_counts_steps_rows_and_padding(engine: EngineMetrics, read: Read) -> None:
    engine.tick(rows=5, bucket=8, steps={"t": 20}, seconds=0.002)
    assert read("carousel_ticks_total", model="m") == 1
    assert read("carousel_steps_total", model="m") == 20
    assert read("carousel_bucket_rows_total", model="m") == 8
    assert read("carousel_batch_size_sum", model="m") == 5
    assert read("carousel_batch_size_bucket", model="m", le="4.0") == 0
    assert read("carousel_batch_size_bucket", model="m", le="8.0") == 1
    assert read("carousel_tick_seconds_sum", model="m") == pytest.approx(0.002)


def test_latencies_come_as_arrays(engine: EngineMetrics, read: Read) -> None:
    engine.stepped(np.array([0.001, 0.004]), np.array([0.002, 0.02]))
    assert read("carousel_step_queue_seconds_count", model="m") == 2
    assert read("carousel_step_seconds_sum", model="m") == pytest.approx(0.022)
    assert read("carousel_step_seconds_bucket", model="m", le="0.002") == 1
    assert read("carousel_step_seconds_bucket", model="m", le="+Inf") == 2


def test_tokens_count_with_their_times(engine: EngineMetrics, read: Read) -> None:
    engine.tokens(3, np.array([0.05]), np.array([0.01, 0.02]))
    assert read("carousel_tokens_total", model="m") == 3
    assert read("carousel_first_token_seconds_count", model="m") == 1
    assert read("carousel_inter_token_seconds_count", model="m") == 2


def test_whole_sequences_count_apart_from_steps_of_sessions(
    engine: EngineMetrics, read: Read
) -> None:
    engine.inferred(sequences=4, steps=400, seconds=0.1)
    assert read("carousel_infer_sequences_total", model="m") == 4
    assert read("carousel_infer_steps_total", model="m") == 400
    assert read("carousel_infer_batch_seconds_count", model="m") == 1
    assert read("carousel_steps_total", model="m") == 0


def test_every_reason_has_a_series_before_it_happens(wire: WireMetrics, read: Read) -> None:
    for reason in ERRORS:
        assert read("carousel_refusals_total", reason=reason) == 0
    wire.refused("SLAB_FULL")
    wire.refused("QUEUE_FULL")
    wire.refused("QUEUE_FULL")
    assert read("carousel_refusals_total", reason="SLAB_FULL") == 1
    assert read("carousel_refusals_total", reason="QUEUE_FULL") == 2


def test_a_reason_outside_the_registry_is_our_bug(wire: WireMetrics) -> None:
    with pytest.raises(KeyError):
        wire.refused("BAD_WEATHER")


def test_sessions_open_and_end(engine: EngineMetrics, read: Read) -> None:
    engine.opened()
    engine.opened()
    engine.ended("expired")
    assert read("carousel_sessions_opened_total", model="m") == 2
    assert read("carousel_sessions_ended_total", how="expired") == 1
    assert read("carousel_sessions_ended_total", how="closed") == 0


def test_sessions_go_to_the_store_and_return(engine: EngineMetrics, read: Read) -> None:
    for how in ("parked", "parked", "resumed"):
        engine.moved(how)
    engine.durable(np.asarray([0.002, 0.2]))
    assert read("carousel_sessions_moved_total", model="m", how="parked") == 2
    assert read("carousel_sessions_moved_total", model="m", how="revoked") == 0
    assert read("carousel_durable_lag_seconds_count", model="m") == 2


def test_sessions_are_handed_over(engine: EngineMetrics, read: Read) -> None:
    name = "carousel_sessions_handed_over_total"
    for why in (Why.DRAIN, Why.DRAIN, Why.ASKED):
        engine.handed_over(why, 0.02)
    engine.received()
    assert read(name, model="m", why="drain", direction="out") == 2
    assert read(name, model="m", why="rebalance", direction="out") == 0
    assert read(name, model="m", why="asked", direction="in") == 1
    assert read("carousel_hand_over_seconds_count", model="m") == 3


def test_steps_are_counted_by_their_owner(engine: EngineMetrics, read: Read) -> None:
    engine.placed(5, 2)
    engine.placed(1, 0)
    assert read("carousel_placed_steps_total", model="m", at="owner") == 6
    assert read("carousel_placed_steps_total", model="m", at="elsewhere") == 2


def test_levels_follow_the_engine(engine: EngineMetrics, read: Read) -> None:
    engine.gauges(
        resident=10, generating=2, pending_steps=33, inbox=4, undurable_steps=9, misplaced=6
    )
    assert read("carousel_undurable_steps", model="m") == 9
    assert read("carousel_sessions_misplaced", model="m") == 6
    assert read("carousel_sessions", model="m", phase="resident") == 10
    assert read("carousel_sessions_generating", model="m") == 2
    assert read("carousel_slots_used", model="m") == 10
    assert read("carousel_slots_capacity", model="m") == 64
    assert read("carousel_state_bytes", model="m", tier="device") == 5120
    assert read("carousel_queue_steps", model="m") == 33
    assert read("carousel_inbox_commands", model="m") == 4
    engine.gauges(
        resident=0, generating=0, pending_steps=0, inbox=0, undurable_steps=0, misplaced=0
    )
    assert read("carousel_state_bytes", model="m", tier="device") == 0


def test_model_info_names_the_weights(engine: EngineMetrics, read: Read) -> None:
    assert engine
    told = read("carousel_model_info", model="m", cell="lstm", layers="2", hidden="32")
    assert told == 1


def test_models_do_not_share_series(metrics: Metrics, model: ModelView, read: Read) -> None:
    from dataclasses import replace

    one = metrics.engine(model, 64)
    two = metrics.engine(replace(model, name="n"), 32)
    one.tick(1, 1, {"t": 1}, 0.001)
    two.tick(2, 2, {"t": 4}, 0.001)
    assert read("carousel_steps_total", model="m") == 1
    assert read("carousel_steps_total", model="n") == 4
    assert read("carousel_slots_capacity", model="n") == 32


def test_every_call_of_the_protocol_has_its_series(wire: WireMetrics, read: Read) -> None:
    assert wire
    calls = {(service, method): kind for kind, service, method in known_calls()}
    assert calls[INFERENCE, "Attach"] == "bidi_stream"
    assert calls[INFERENCE, "Generate"] == "server_stream"
    assert calls["carousel.v1.SessionService", "OpenSession"] == "unary"
    for (service, method), kind in calls.items():
        labels = {"grpc_service": service, "grpc_method": method, "grpc_type": kind}
        assert read("grpc_server_started_total", **labels) == 0
        assert read("grpc_server_handled_total", grpc_code="OK", **labels) == 0
        assert read("grpc_server_handling_seconds_count", **labels) == 0


def test_a_call_is_started_and_handled(wire: WireMetrics, read: Read) -> None:
    wire.started(INFERENCE, "Step", "unary")
    wire.started(INFERENCE, "Step", "unary")
    wire.handled(INFERENCE, "Step", "unary", "OUT_OF_RANGE", 0.003)
    assert read("grpc_server_started_total", grpc_method="Step") == 2
    handled = read("grpc_server_handled_total", grpc_method="Step", grpc_code="OUT_OF_RANGE")
    assert handled == 1
    assert read("grpc_server_handling_seconds_bucket", grpc_method="Step", le="0.005") == 1


def test_a_caller_cannot_make_series(wire: WireMetrics, metrics: Metrics, read: Read) -> None:
    wire.started("evil", "m0", "unary")
    size = len(metrics.expose().splitlines())
    for number in range(100):
        wire.started(f"evil{number}", f"m{number}", "unary")
    assert len(metrics.expose().splitlines()) == size
    assert read("grpc_server_started_total", grpc_service="other") == 101


def test_streams_and_lag(wire: WireMetrics, read: Read) -> None:
    wire.streams(3)
    wire.loop_lag(0.004)
    assert read("carousel_attach_streams") == 3
    assert read("carousel_event_loop_lag_seconds_bucket", le="0.005") == 1


def test_the_types_are_those_of_the_registry(metrics: Metrics) -> None:
    kinds = {family.name: family.type for family in metrics.registry.collect()}
    assert kinds["carousel_steps"] == Kind.COUNTER
    assert kinds["carousel_slots_used"] == Kind.GAUGE
    assert kinds["carousel_tick_seconds"] == Kind.HISTOGRAM
