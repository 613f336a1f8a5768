"""Draws the dashboard's panels from a live Prometheus into docs/images/dashboard.png.

    python deploy/grafana/render.py --prometheus http://localhost:9090 --minutes 5

It reads dashboards/carousel.json, so that the picture shows the queries, units and legends of Grafana.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

ROOT = Path(__file__).parents[2]
DASHBOARD = Path(__file__).parent / "dashboards" / "carousel.json"
SHOWN = (
    *("Steps, all models", "Tokens, all models", "Open sessions"),
    *("Sessions in a batch", "Latency of a step, p99", "Refusals"),
    *("Steps per second", "Tokens per second", "Latency of a step"),
    *("Time of a tick on the device", "Time between tokens", "Steps by their latency"),
)
"""Titles of the panels in the picture."""

INK, MUTED, PAPER, CARD, GRID = "#d8dee9", "#8b95a7", "#111217", "#181b1f", "#2a2e35"
COLOURS = ("#73bf69", "#5794f2", "#f2cc0c", "#ff9830", "#b877d9", "#4dd0e1", "#ff7383", "#9aa7b8")
NAMED_COLOURS = {"green": COLOURS[0], "blue": COLOURS[1], "orange": COLOURS[3]}
POINTS = 150
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.facecolor": CARD,
    "figure.facecolor": PAPER,
    "axes.edgecolor": GRID,
    "grid.color": GRID,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Course:
    """One line. `when_s` float64[n] is seconds before the picture's end, up to 0. `values` is float64[n]."""

    label: str
    when_s: np.ndarray[Any, np.dtype[np.float64]]
    values: np.ndarray[Any, np.dtype[np.float64]]


class Source:
    """Range queries over some minutes."""

    def __init__(self, url: str, minutes: float, end_unix_s: float) -> None:
        self._url = url
        self._end = end_unix_s
        self.span_s = minutes * 60
        self._step_s = max(1.0, self.span_s / POINTS)

    def courses(self, target: dict[str, Any]) -> list[Course]:
        """All lines of one query of a panel."""
        expr = target["expr"].replace("$__rate_interval", "15s")
        expr = expr.replace("$instance", ".*").replace("$model", ".*")
        parameters = {
            "query": expr,
            "start": str(self._end - self.span_s),
            "end": str(self._end),
            "step": str(self._step_s),
        }
        url = f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310 - given by the operator
            found = json.load(reply)["data"]["result"]
        return [self._course(target["legendFormat"], series) for series in found]

    def _course(self, legend: str, series: dict[str, Any]) -> Course:
        points = np.array(series["values"], dtype=np.float64)
        label = re.sub(r"{{(\w+)}}", lambda name: series["metric"].get(name[1], ""), legend)
        return Course(label, points[:, 0] - self._end, points[:, 1])


def human(value: float, unit: str) -> str:
    """A value in Grafana's format: 1.2 ms, 3.4 K/s."""
    if not np.isfinite(value):
        return "–"
    if unit == "s":
        factor, suffix = (1e6, "µs") if value < 1e-3 else (1e3, "ms") if value < 1 else (1, "s")
        return f"{value * factor:.3g} {suffix}" if value else "0"
    suffix = "/s" if unit == "ops" else ""
    if not value:
        return "0"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{suffix}"
    return f"{value:.3g}{suffix}"


def ago(when_min: float, _: object) -> str:
    """A tick of the time axis."""
    return f"{when_min:g} min" if when_min else "0"


def colour_of(panel: dict[str, Any], value: float) -> str:
    """The colour of a number: a fixed one, or that of its highest threshold."""
    defaults = panel["fieldConfig"]["defaults"]
    if defaults["color"]["mode"] == "fixed":
        return NAMED_COLOURS[defaults["color"]["fixedColor"]]
    steps = defaults["thresholds"]["steps"]
    reached = [s for s in steps if s["value"] is None or value >= s["value"]]
    return NAMED_COLOURS[reached[-1]["color"]]


def draw_stat(axes: Axes, panel: dict[str, Any], courses: list[Course]) -> None:
    """A number over its recent course."""
    course = courses[0]
    colour = colour_of(panel, float(course.values[-1]))
    axes.fill_between(course.when_s, course.values, color=colour, alpha=0.22, lw=0)
    axes.plot(course.when_s, course.values, color=colour, lw=1)
    axes.set_ylim(0, max(float(np.nanmax(course.values)), 1e-9) * 2.6)
    axes.set_xlim(course.when_s[0], 0)
    axes.set_xticks([])
    axes.set_yticks([])
    text = human(float(course.values[-1]), panel["fieldConfig"]["defaults"]["unit"])
    axes.text(0.5, 0.6, text, transform=axes.transAxes, ha="center", va="center",
              fontsize=19, weight="bold", color=colour)  # fmt: skip


def model_of(course: Course) -> str:
    """A line's legend begins with its model, which has one colour in the whole picture."""
    return course.label.partition(" ")[0]


def draw_lines(
    axes: Axes, panel: dict[str, Any], courses: list[Course], models: list[str], span_s: float
) -> None:
    """Lines over time, without those that are always 0."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    shown = [course for course in courses if np.nanmax(course.values, initial=0.0) > 0]
    for course in sorted(shown, key=lambda course: course.label):
        colour = COLOURS[models.index(model_of(course)) % len(COLOURS)]
        style = ":" if course.label.endswith("p50") else "-"
        axes.plot(
            course.when_s / 60, course.values, style, color=colour, lw=1.3, label=course.label
        )
        axes.fill_between(course.when_s / 60, course.values, color=colour, alpha=0.07, lw=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-span_s / 60, 0)
    axes.margins(y=0.15)
    axes.grid(lw=0.6)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value, unit)))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=7,
                handlelength=1.2, columnspacing=1.2, labelcolor=INK)  # fmt: skip


def draw_heatmap(axes: Axes, courses: list[Course], span_s: float) -> None:
    """Steps in each bucket of latency over time, from cumulative buckets."""
    ordered = sorted(courses, key=lambda course: float(course.label.replace("+Inf", "inf")))
    points = min(course.values.size for course in ordered)
    cumulative = np.stack([course.values[-points:] for course in ordered])
    counts = np.diff(cumulative, axis=0, prepend=0.0)
    used = np.flatnonzero(counts.sum(axis=1) > 0)
    rows = slice(max(0, used[0] - 1), min(len(ordered), used[-1] + 2))
    counts = np.where(counts > 0, counts, np.nan)[rows]
    labels = [course.label for course in ordered][rows]
    when_min = ordered[0].when_s[-points:] / 60
    axes.pcolormesh(when_min, np.arange(len(labels)), counts, cmap="viridis", shading="nearest")
    axes.set_yticks(np.arange(len(labels)))
    axes.set_yticklabels(
        ["more" if label == "+Inf" else f"≤ {human(float(label), 's')}" for label in labels],
        fontsize=7,
    )
    axes.set_xlim(-span_s / 60, 0)


def draw_panel(
    axes: Axes, panel: dict[str, Any], courses: list[Course], models: list[str], span_s: float
) -> None:
    """One panel by its type."""
    axes.set_title(panel["title"], loc="left", fontsize=9.5, weight="bold", color=INK)
    axes.tick_params(length=0)
    if panel["type"] == "stat":
        draw_stat(axes, panel, courses)
        return
    if panel["type"] == "heatmap":
        draw_heatmap(axes, courses, span_s)
    else:
        draw_lines(axes, panel, courses, models, span_s)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(ago))


def draw(panels: list[dict[str, Any]], source: Source, target: Path) -> None:
    """The picture: a row of numbers, then rows of three."""
    lines = [[c for query in panel["targets"] for c in source.courses(query)] for panel in panels]
    models = sorted(
        {
            model_of(course)
            for panel, courses in zip(panels, lines, strict=True)
            if panel["type"] == "timeseries"
            for course in courses
        }
    )
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(13.5, 7.8))
        edges = {"left": 0.04, "right": 0.988}
        numbers = figure.add_gridspec(1, 6, top=0.895, bottom=0.775, wspace=0.08, **edges)
        charts = figure.add_gridspec(2, 3, top=0.7, bottom=0.09, wspace=0.17, hspace=0.5, **edges)
        figure.text(0.04, 0.952, "Carousel", fontsize=16, weight="bold")
        figure.text(
            0.988,
            0.954,
            f"{source.span_s / 60:g} minutes",
            fontsize=9,
            color=MUTED,
            ha="right",
        )
        places = [numbers[0, column] for column in range(6)]
        places += [charts[row, column] for row in range(2) for column in range(3)]
        for place, panel, courses in zip(places, panels, lines, strict=True):
            axes = figure.add_subplot(place)
            draw_panel(axes, panel, courses, models, source.span_s)
        figure.savefig(target, dpi=130)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw the dashboard from a live Prometheus.")
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--ago", type=float, default=0.0, help="minutes from its end to now")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "dashboard.png")
    given = parser.parse_args()
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    by_title = {panel["title"]: panel for panel in dashboard["panels"]}
    panels = [by_title[title] for title in SHOWN]
    source = Source(given.prometheus, given.minutes, time.time() - given.ago * 60)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    draw(panels, source, given.out)


if __name__ == "__main__":
    main()
