"""Draws the samples of `carousel top` as tables. A narrow terminal shows fewer columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from carousel.cli.demo.plain import as_latency, as_rate
from carousel.cli.printing import fitting, printable, table_of

from .view import ModelView, ServerView
from .watch import Sample

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

COLUMNS = (
    *("model", "steps/s", "tokens/s", "sessions", "queue", "batch", "step p50", "step p99"),
    *("tick p50", "tick p99", "infer/s", "parked", "undurable", "durable p99"),
)
"""Columns in order of their importance: the last ones are left out first."""

MOST_TENANTS = 8
MOST_REASONS = 4
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def drawn(samples: Sequence[Sample], width: int) -> RenderableType:
    """All servers, one below the other."""
    from rich.console import Group

    return Group(*(part for sample in samples for part in server(sample, width)))


def server(sample: Sample, width: int) -> list[RenderableType]:
    """The parts of one server: a title, its models, its tenants."""
    from rich.text import Text

    title = Text(printable(sample.address), style="bold")
    if sample.away:
        away = f"  away for {as_time(sample.away_s)}: {printable(sample.away)}; looking for it"
        return [title.append(away, style="red")]
    view = sample.view
    if view is None:
        return [title.append("  there; its numbers need a second read", style="dim")]
    parts: list[RenderableType] = [title.append(f"  {facts(view)}", style="not bold")]
    parts += [Text(line, style=style) for line, style in lines(view) if line]
    records = [as_record(model) for model in view.models]
    parts.append(numbers(table_of(records, fitting(records, COLUMNS, width))))
    return parts


def numbers(table: Table) -> Table:
    """A table whose columns are numbers, but for the first."""
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def facts(view: ServerView) -> str:
    """The version, device, age and load of a server."""
    told = [
        f"{view.version} on {view.device}",
        f"up {as_time(view.up_s)}",
        f"{view.memory_bytes / 1e6:,.0f} MB",
        f"{view.cores:.2f} cores",
        f"{view.streams} streams",
        f"loop p99 {as_bound(view.loop_p99_s)}",
    ]
    return printable(" · ".join(told))


def lines(view: ServerView) -> list[tuple[str, str]]:
    """The lines below the title, each with its style. Empty ones have nothing to say."""
    restarted = "started again: the numbers count from there" if view.restarted else ""
    return [
        (restarted, "yellow"),
        (store(view), ""),
        (errors(view), "red" if view.errors else ""),
        (tenants(view), ""),
    ]


def store(view: ServerView) -> str:
    """The store's sessions and the time of a request."""
    if view.store_sessions is None:
        return ""
    count = "?" if view.store_sessions < 0 else f"{view.store_sessions:,}"
    replicas = f", {view.replicas} replicas" if view.replicas > 1 else ""
    return f"store: {count} sessions, request p99 {as_bound(view.store_p99_s)}{replicas}"


def errors(view: ServerView) -> str:
    """Errors a second, with the most frequent reasons."""
    worst = sorted(view.errors.items(), key=lambda item: -item[1])[:MOST_REASONS]
    reasons = ", ".join(f"{reason} {as_rate(rate)}" for reason, rate in worst)
    return f"errors/s: {per_s(sum(view.errors.values()))}" + (f" ({reasons})" if reasons else "")


def tenants(view: ServerView) -> str:
    """The busiest tenants, if there are several."""
    if len(view.tenants) < 2:
        return ""
    shown = [
        f"{one.tenant} {as_rate(one.steps)} steps/s, {one.sessions} sessions"
        for one in view.tenants[:MOST_TENANTS]
    ]
    more = len(view.tenants) - len(shown)
    return printable("tenants: " + "; ".join([*shown, *([f"{more} more"] if more else [])]))


def as_record(model: ModelView) -> dict[str, str]:
    """A model's cells, by column."""
    return {
        "model": model.model,
        "steps/s": per_s(model.steps),
        "tokens/s": per_s(model.tokens),
        "sessions": f"{model.sessions}/{model.slots}",
        "queue": f"{model.queue:,}",
        "batch": "–" if model.batch is None else f"{model.batch:.1f}",
        "step p50": as_bound(model.step_p50_s),
        "step p99": as_bound(model.step_p99_s),
        "tick p50": as_bound(model.tick_p50_s),
        "tick p99": as_bound(model.tick_p99_s),
        "infer/s": per_s(model.infer_steps),
        "parked": f"{model.parked:,}",
        "undurable": f"{model.undurable:,}",
        "durable p99": as_bound(model.durable_p99_s),
    }


def per_s(rate: float) -> str:
    """A rate, or a plain 0."""
    return as_rate(rate) if rate else "0"


def as_bound(seconds: float | None) -> str:
    """A quantile, which is the upper bound of a bucket: ≤ 5.0 ms."""
    text = as_latency(seconds)
    return text if seconds is None or text.startswith(">") else f"≤ {text}"


def as_time(seconds: float) -> str:
    """A span of time in its largest unit: 12 s, 3 min, 5 h."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
