"""The README's picture shows panels of the real dashboard, with the numbers of a real Prometheus."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from .prometheus import Prometheus

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"


def size(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", head[16:])
    return width, height


def test_the_picture_is_drawn_from_a_live_prometheus(
    prometheus: Prometheus, tmp_path: Path
) -> None:
    target = tmp_path / "picture.png"
    command = [sys.executable, GRAFANA / "render.py", "--prometheus", prometheus.url]
    done = subprocess.run(
        [*command, "--minutes", "0.2", "--out", target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert size(target) == size(ROOT / "docs" / "images" / "dashboard.png")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0"),
        (0.00025, "s", "250 µs"),
        (0.0075, "s", "7.5 ms"),
        (2.5, "s", "2.5 s"),
        (float("nan"), "s", "–"),
        (4800.0, "ops", "4.8 K/s"),
        (0.5, "ops", "0.5/s"),
        (0.75, "percentunit", "75 %"),
        (3e9, "bytes", "3 G"),
        (12.0, "short", "12"),
    ],
)
def test_values_are_written_for_people(
    monkeypatch: pytest.MonkeyPatch, value: float, unit: str, text: str
) -> None:
    monkeypatch.syspath_prepend(GRAFANA)
    from render import human

    assert human(value, unit) == text


def test_every_panel_of_the_picture_is_on_the_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(GRAFANA)
    from render import SHOWN

    dashboard = json.loads((GRAFANA / "dashboards" / "carousel.json").read_text())
    assert set(SHOWN) <= {panel["title"] for panel in dashboard["panels"]}


def test_a_number_that_should_be_zero_is_green_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(GRAFANA)
    from dashboard import panel_json
    from queries import stat
    from render import NAMED_COLOURS, colour_of

    refusals = panel_json(stat("Refusals", "ops", "x", alarm=True), 1, 0, 0, 4)
    assert colour_of(refusals, 0.0) == NAMED_COLOURS["green"]
    assert colour_of(refusals, 0.01) == NAMED_COLOURS["orange"]
    steps = panel_json(stat("Steps", "ops", "x"), 1, 0, 0, 4)
    assert colour_of(steps, 0.0) == colour_of(steps, 9.0) == NAMED_COLOURS["blue"]
