"""Every panel of the dashboard shows data of a real server, and every metric is on a panel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from carousel_server.metrics import METRICS

from .prometheus import Prometheus

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "carousel.json"
VARIABLES = {
    "$__rate_interval": "10s",
    "$instance": ".*",
    "$model": ".*",
}
EXEMPT = {
    "process_virtual_memory_bytes": "says little where libraries map much and touch little",
    "process_open_fds": "for a hunt after a leak, not for every day",
    "process_max_fds": "constant",
}
"""Metrics that no panel shows, each with the reason."""


@cache
def panels() -> list[dict[str, Any]]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}".replace(" ", "-"))
        for panel in panels()
        for target in panel["targets"]
    ]


def substituted(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, f"unknown variable in {expr}"
    return expr


@pytest.mark.parametrize("expr", queries())
def test_a_query_parses_and_finds_data(prometheus: Prometheus, expr: str) -> None:
    query = substituted(expr)
    assert prometheus.get("format_query", query=query)
    prometheus.wait_for(query)
    values = [float(series["value"][1]) for series in prometheus.query(query)]
    assert values


def test_prometheus_refuses_what_is_no_query(prometheus: Prometheus) -> None:
    with pytest.raises(ValueError, match="parse error"):
        prometheus.get("format_query", query="sum by (")


def test_the_numbers_are_those_of_the_load(prometheus: Prometheus) -> None:
    """Steps and tokens ran, batches were formed, and NaN was refused by its name."""
    for expr in (
        'increase(carousel_steps_total{model="lstm"}[1m]) > 0',
        'increase(carousel_tokens_total{model="gru-bytes"}[1m]) > 0',
        'increase(carousel_infer_steps_total{model="bilstm"}[1m]) > 0',
        "histogram_quantile(0.5, sum by (le) (rate(carousel_step_seconds_bucket[1m]))) > 0",
        'increase(carousel_refusals_total{reason="INPUT_NOT_FINITE"}[1m]) > 0',
        'increase(grpc_server_handled_total{grpc_method="Infer",grpc_code="OK"}[1m]) > 0',
        "carousel_slots_capacity == 256",
    ):
        prometheus.wait_for(expr)


def test_every_metric_is_on_a_panel_or_exempt() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    words = set(re.findall(r"[a-z_]+", shown))
    for name in METRICS:
        on_panel = bool(words & {name, f"{name}_bucket", f"{name}_sum", f"{name}_count"})
        assert on_panel != (name in EXEMPT), name


def test_every_metric_on_a_panel_is_declared() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for word in re.findall(r"(?:carousel|grpc_server|process)_[a-z_]+", target["expr"]):
                family = re.sub(r"_(bucket|sum|count)$", "", word)
                assert word in METRICS or family in METRICS, word


def test_panels_have_a_unit_and_take_the_datasource_from_the_variable() -> None:
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            if "rate(" in target["expr"]:
                assert "[$__rate_interval]" in target["expr"]


def test_no_two_panels_have_the_same_title() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_the_uid_is_fixed_and_panels_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert dashboard["uid"] == "carousel"
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("script", ["docs/generate.py", "deploy/grafana/dashboard.py"])
def test_generated_files_are_up_to_date(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
