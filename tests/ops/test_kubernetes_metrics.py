"""What Kubernetes measures and scales by are metrics of the server, and yield what the comments say."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from carousel_server.core.limits import EngineLimits
from carousel_server.metrics import METRICS

from .kubectl import Manifest
from .kubernetes import FOLDER, ROOT, composed, overlay

ADAPTER = yaml.safe_load((FOLDER / "components/autoscale/adapter-rules.yaml").read_text())
RULES = {rule["name"]["as"]: rule for rule in ADAPTER["rules"]["custom"]}

SERIES = {
    'carousel_slots_used{namespace="carousel",pod="carousel-0",model="small"}': "10x10",
    'carousel_slots_used{namespace="carousel",pod="carousel-0",model="full"}': "90x10",
    'carousel_slots_used{namespace="carousel",pod="carousel-1",model="small"}': "30x10",
    'carousel_slots_used{namespace="other",pod="carousel-0",model="small"}': "100x10",
    'carousel_slots_capacity{namespace="carousel",pod="carousel-0",model="small"}': "100x10",
    'carousel_slots_capacity{namespace="carousel",pod="carousel-0",model="full"}': "100x10",
    'carousel_slots_capacity{namespace="carousel",pod="carousel-1",model="small"}': "100x10",
    'carousel_slots_capacity{namespace="other",pod="carousel-0",model="small"}': "100x10",
    'carousel_queue_steps{namespace="carousel",pod="carousel-0",model="small"}': "0x10",
    'carousel_queue_steps{namespace="carousel",pod="carousel-0",model="full"}': "500x10",
    'carousel_queue_steps{namespace="carousel",pod="carousel-1",model="small"}': "100x10",
    'carousel_queue_steps{namespace="other",pod="carousel-0",model="small"}': "900x10",
}
"""Two replicas, one of them with two models, and a deployment in another namespace."""

EXPECTED = {
    "carousel_slots_share": {"carousel-0": 0.9, "carousel-1": 0.3},
    "carousel_waiting_steps": {"carousel-0": 500.0, "carousel-1": 100.0},
}
"""Of each pod, the value of its fullest or busiest model."""


def names(query: str) -> set[str]:
    return set(re.findall(r"\b(?:carousel|grpc|process)_\w+", query))


def evaluate(folder: Path, cases: dict[str, dict[str, float]]) -> None:
    """Lets promtool compute queries over SERIES. Raises where a result differs from what is expected."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    tests = [
        {
            "expr": query,
            "eval_time": "5m",
            "exp_samples": [{"labels": key, "value": value} for key, value in expected.items()],
        }
        for query, expected in cases.items()
    ]
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    file = folder / "queries.yml"
    file.write_text(
        yaml.safe_dump(
            {"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]}
        )
    )
    done = subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def targets(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """The autoscaler's averages, by metric."""
    found = {}
    for metric in metrics:
        value = metric["pods"]["target"]["averageValue"]
        number = float(value.removesuffix("m")) / (1000 if value.endswith("m") else 1)
        found[metric["pods"]["metric"]["name"]] = number
    return found


def test_the_autoscalers_metrics_are_the_adapters() -> None:
    spec = overlay("production").one("HorizontalPodAutoscaler")["spec"]
    assert {m["pods"]["metric"]["name"] for m in spec["metrics"]} == RULES.keys()
    assert spec["scaleTargetRef"]["kind"] == "StatefulSet"
    assert spec["scaleTargetRef"]["name"] == "carousel"
    assert spec["minReplicas"] >= 2


@pytest.mark.parametrize("name", RULES)
def test_the_adapter_asks_for_metrics_of_the_server(name: str) -> None:
    rule = RULES[name]
    used = names(rule["metricsQuery"]) | names(rule["seriesQuery"])
    assert used
    assert used <= METRICS.keys()
    documented = (ROOT / "docs/reference/metrics.md").read_text()
    assert all(f"| `{metric}` |" in documented for metric in used)
    (first,) = names(rule["seriesQuery"])
    assert re.fullmatch(rule["name"]["matches"], first)
    assert {"namespace", "pod"} == rule["resources"]["overrides"].keys()


def test_the_adapters_queries_give_each_pods_value(tmp_path: Path) -> None:
    cases = {}
    for name, values in EXPECTED.items():
        query = RULES[name]["metricsQuery"].replace("<<.GroupBy>>", "pod")
        query = query.replace("<<.LabelMatchers>>", 'namespace="carousel"')
        cases[query] = {f'{{pod="{pod}"}}': value for pod, value in values.items()}
    evaluate(tmp_path, cases)


def test_kedas_queries_are_the_sums_of_the_same_values(tmp_path: Path) -> None:
    triggers = composed("keda").one("ScaledObject")["spec"]["triggers"]
    queries = [trigger["metadata"]["query"] for trigger in triggers]
    for query in queries:
        assert names(query) <= METRICS.keys()
    sums = [sum(values.values()) for values in EXPECTED.values()]
    evaluate(tmp_path, {query: {"{}": total} for query, total in zip(queries, sums, strict=True)})


def test_both_scale_alike() -> None:
    autoscaler = overlay("production").one("HorizontalPodAutoscaler")["spec"]
    keda = composed("keda").one("ScaledObject")["spec"]
    thresholds = [float(trigger["metadata"]["threshold"]) for trigger in keda["triggers"]]
    assert thresholds == list(targets(autoscaler["metrics"]).values())
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == autoscaler["behavior"]
    assert keda["minReplicaCount"] == autoscaler["minReplicas"]
    assert keda["maxReplicaCount"] == autoscaler["maxReplicas"]
    assert {k: keda["scaleTargetRef"][k] for k in ("kind", "name")} == {
        k: autoscaler["scaleTargetRef"][k] for k in ("kind", "name")
    }
    namespace = overlay("production").one("Namespace")["metadata"]["name"]
    for trigger in keda["triggers"]:
        assert f'namespace="{namespace}"' in trigger["metadata"]["query"]


def test_a_full_batch_may_wait_and_no_more() -> None:
    autoscaler = overlay("production").one("HorizontalPodAutoscaler")["spec"]
    settings = overlay("production").one("ConfigMap", "carousel-settings")["data"]
    assert "CAROUSEL_MAX_BATCH" not in settings
    assert targets(autoscaler["metrics"])["carousel_waiting_steps"] == EngineLimits().max_batch
    assert targets(autoscaler["metrics"])["carousel_slots_share"] < 1


@pytest.mark.parametrize("component", ["autoscale", "keda"])
def test_an_autoscaler_alone_decides_how_many(component: str) -> None:
    assert "replicas" not in composed(component).one("StatefulSet")["spec"]
    assert overlay("try").one("StatefulSet")["spec"]["replicas"] >= 2


def test_prometheus_finds_the_replicas_under_the_alerts_job() -> None:
    found = overlay("production")
    monitor = found.one("ServiceMonitor")["spec"]
    (endpoint,) = monitor["endpoints"]
    services = [
        one
        for one in found.of("Service")
        if monitor["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
        and any(port["name"] == endpoint["port"] for port in one["spec"]["ports"])
    ]
    (service,) = services
    assert service["metadata"]["name"] == "carousel-headless", "each replica once"
    jobs = set()
    for rule in found.one("PrometheusRule")["spec"]["groups"][0]["rules"]:
        jobs |= set(re.findall(r'job="(\w+)"', rule["expr"]))
    assert jobs == {service["metadata"]["labels"][monitor["jobLabel"]]}
    assert endpoint["path"] == "/metrics"


def test_the_alerts_are_those_of_prometheus() -> None:
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    assert _folded(overlay("production").one("PrometheusRule")["spec"]) == _folded(alerts)


def _folded(rules: Manifest) -> Manifest:
    """The rules with single spaces: Kustomize breaks folded text at other places, which PromQL ignores."""
    for group in (copied := copy.deepcopy(rules))["groups"]:
        for rule in group["rules"]:
            rule["expr"] = " ".join(rule["expr"].split())
    return copied
