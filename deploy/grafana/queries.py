"""Panels, and the PromQL of their queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SERVER = 'instance=~"$instance"'
EACH = "$instance"
"""In the title of a row: the row is repeated for each chosen server."""
MODEL = f'{SERVER}, model=~"$model"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries` are (legend, PromQL). `width` is in 24ths of a row."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str = ""
    kind: str = "timeseries"
    width: int = 8
    alarm: bool = False
    """True for a number that should be 0. It is green at 0 and orange above."""
    options: dict[str, Any] = field(default_factory=dict)


def rate(metric: str, by: str = "model", match: str = MODEL) -> str:
    """Events per second."""
    return f"sum by ({by}) (rate({metric}{{{match}}}[$__rate_interval]))"


def level(metric: str, by: str = "model", match: str = MODEL) -> str:
    """Sum of a gauge over instances."""
    return f"sum by ({by}) ({metric}{{{match}}})"


def quantile(q: float, metric: str, by: str = "model", match: str = MODEL) -> str:
    """A quantile of a histogram."""
    groups = ", ".join(filter(None, (by, "le")))
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', groups, match)})"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    """Median and 99th percentile of each model."""
    return (
        ("{{model}} p50", quantile(0.5, metric)),
        ("{{model}} p99", quantile(0.99, metric)),
    )


def total(metric: str) -> str:
    """Sum of a series of the wire."""
    return f"sum({metric}{{{SERVER}}})"


def stat(title: str, unit: str, expr: str, *, alarm: bool = False) -> Panel:
    """A number with its recent values."""
    return Panel(title, unit, (("", expr),), kind="stat", width=4, alarm=alarm)


def whole(metric: str, match: str = MODEL) -> str:
    """Events per second of all selected series."""
    return f"sum(rate({metric}{{{match}}}[$__rate_interval]))"
