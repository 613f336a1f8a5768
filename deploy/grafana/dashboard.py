"""The Grafana dashboard as code: `python deploy/grafana/dashboard.py` writes dashboards/carousel.json.

--check compares instead. Grafana, the picture in the README (render.py) and tests/ops read the JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from panels import ROWS
from queries import EACH, Panel

TARGET = Path(__file__).parent / "dashboards" / "carousel.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

_FIELDS = {
    "timeseries": {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": False},
    "stat": {},
    "heatmap": {},
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "graphMode": "area",
        "colorMode": "value",
        "reduceOptions": {"calcs": ["lastNotNull"]},
    },
    "heatmap": {"calculate": False, "yAxis": {"unit": "s"}, "cellGap": 1},
}


def colours(panel: Panel) -> dict[str, Any]:
    """Blue for information. Green or orange for a number that should be 0."""
    if panel.kind != "stat":
        return {}
    if not panel.alarm:
        return {"color": {"mode": "fixed", "fixedColor": "blue"}}
    steps = [{"color": "green", "value": None}, {"color": "orange", "value": 1e-9}]
    return {
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }


def panel_json(panel: Panel, number: int, x: int, y: int, height: int) -> dict[str, Any]:
    """One panel as Grafana reads it."""
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": _FIELDS[panel.kind], **colours(panel)},
            "overrides": [],
        },
        "options": {**_OPTIONS[panel.kind], **panel.options},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
            }
            for index, (legend, expr) in enumerate(panel.queries)
        ],
    }


def panels_json() -> list[dict[str, Any]]:
    """All rows, laid out from left to right."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "panels": []}
            | ({"repeat": "instance"} if EACH in title else {})
        )
        x, y, height = 0, y + 1, 4 if title == "Now" else 8
        for panel in row:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            panels.append(panel_json(panel, len(panels) + 1, x, y, height))
            x += panel.width
        y += height
    return panels


def variable(name: str, query: str) -> dict[str, Any]:
    """A choice of label values, all at first."""
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """The whole dashboard."""
    return {
        "uid": "carousel",
        "title": "Carousel",
        "tags": ["carousel"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-15m", "to": "now"},
        "graphTooltip": 1,
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                variable("instance", "label_values(carousel_build_info, instance)"),
                variable("model", "label_values(carousel_model_info, model)"),
            ]
        },
        "panels": panels_json(),
    }


def main(argv: list[str]) -> int:
    """Writes the dashboard, or with --check compares it; 1 if it is out of date."""
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if argv == ["--check"]:
        fresh = TARGET.exists() and TARGET.read_text(encoding="utf-8") == text
        if not fresh:
            sys.stderr.write(f"{TARGET} is out of date; run python deploy/grafana/dashboard.py\n")
        return int(not fresh)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
