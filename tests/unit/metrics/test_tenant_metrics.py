"""Series by tenant: a bounded number, chosen by the operator."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from carousel_server.core.types import ModelView
from carousel_server.metrics import METRICS, Metrics

TENANTS = [f"tenant-{number}" for number in range(1000)]


def names(metrics: Metrics) -> set[str]:
    """The values of the label `tenant` in all series."""
    families = text_string_to_metric_families(metrics.expose())
    samples = [sample for family in families for sample in family.samples]
    return {sample.labels["tenant"] for sample in samples if "tenant" in sample.labels}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(metrics.expose())
    samples = [sample for family in families for sample in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def test_tenants_beyond_the_first_ones_share_a_series() -> None:
    metrics = Metrics(tenants=TENANTS)
    wire = metrics.wire()
    for tenant in TENANTS:
        wire.quota_refused(tenant, "tenant_streams", 2)
    assert names(metrics) == {*TENANTS[:32], "other"}
    refusals = "carousel_tenant_refusals_total"
    assert value(metrics, refusals, tenant="tenant-3", quota="tenant_streams") == 2
    assert value(metrics, refusals, tenant="other", quota="tenant_streams") == 2 * 968


def test_a_tenant_that_is_not_configured_makes_no_series() -> None:
    metrics = Metrics(tenants=["a"])
    metrics.wire().quota_refused("nobody", "tenant_share")
    assert names(metrics) == {"a", "other"}


def test_every_metric_of_tenants_has_their_series_from_the_start() -> None:
    metrics = Metrics(tenants=["a"])
    text = metrics.expose()
    for name in METRICS:
        if name.startswith("carousel_tenant_") and "model" not in METRICS[name].labels:
            assert f'{name}{{quota="tenant_share",tenant="a"}} 0.0' in text


def test_steps_and_sessions_of_tenants_beyond_the_first_ones_add_up(model: ModelView) -> None:
    metrics = Metrics(tenants=TENANTS)
    engine = metrics.engine(model, 8)
    for tenant in TENANTS:
        engine.tick(1, 1, {tenant: 3}, 0.001)
    engine.tenant_sessions({"tenant-0": 2, "tenant-998": 1, "tenant-999": 1})
    assert names(metrics) == {*TENANTS[:32], "other"}
    assert value(metrics, "carousel_tenant_steps_total", tenant="other") == 3 * 968
    assert value(metrics, "carousel_tenant_sessions", tenant="other") == 2
    engine.tenant_sessions({})
    assert value(metrics, "carousel_tenant_sessions") == 0
