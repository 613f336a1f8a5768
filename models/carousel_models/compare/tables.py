"""A comparison as tables for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .cells import compared
from .results import Comparison, Speed

NONE = "—"
"""In the place of a number that a cell does not have."""


def seconds(value: float) -> str:
    """A time with a suitable unit."""
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.2f} ms"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    table.add_column("cell", style="bold", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _structure(comparison: Comparison) -> Table:
    table = _table(
        "1 Structure", "blocks", "kept per session", "state bytes", "recurrent\nparameters",
        "all\nparameters", "package",
    )  # fmt: skip
    for entry in comparison.structure:
        size = f"{entry.package_bytes / 1e6:.2f} MB" if entry.package_bytes else NONE
        table.add_row(
            compared(entry.cell).label, str(entry.gates), ", ".join(entry.state_tensors),
            f"{entry.state_bytes:,}", f"{entry.stack_parameters:,}", f"{entry.parameters:,}", size,
        )  # fmt: skip
    return table


def _performance(comparison: Comparison) -> Table:
    batches = list(dict.fromkeys(entry.batch for entry in comparison.speed))
    steps = (f"step of {batch}\nsession{'s' * (batch > 1)}" for batch in batches)
    table = _table("2 Performance", "bits\nper byte", "next byte\nright", *steps)
    texts = {entry.cell: entry for entry in comparison.quality}
    for cell in dict.fromkeys(entry.cell for entry in comparison.speed):
        text = texts.get(cell)
        read = (
            (NONE, NONE) if text is None else (f"{text.bits_per_byte:.3f}", f"{text.accuracy:.1%}")
        )
        times = (_time(entry) for entry in comparison.speed if entry.cell == cell)
        table.add_row(compared(cell).label, *read, *times)
    return table


def _time(entry: Speed) -> Text:
    """A step's time, with its quartiles and the steps per second."""
    spread = f"{seconds(entry.low_s)} … {seconds(entry.high_s)}\n{entry.steps_per_s:,.0f}/s"
    return Text(f"{seconds(entry.median_s)}\n").append(spread, style="dim")


def _recall(comparison: Comparison) -> Table:
    untrained = {entry.gap for entry in comparison.recall if not entry.trained}
    gaps = list(dict.fromkeys(entry.gap for entry in comparison.recall))
    columns = (f"{gap}{'*' * (gap in untrained)}" for gap in gaps)
    table = _table("2 Performance: recall after so many steps (*: never trained)", *columns)
    for cell in dict.fromkeys(entry.cell for entry in comparison.recall):
        shares = (f"{entry.accuracy:.0%}" for entry in comparison.recall if entry.cell == cell)
        table.add_row(compared(cell).label, *shares)
    return table


def _fits(comparison: Comparison) -> Table:
    table = Table(title="3 Where each fits", title_justify="left", title_style="bold")
    table.add_column("cell", style="bold", no_wrap=True)
    for column in ("for", "against", "fits"):
        table.add_column(column)
    for entry in comparison.fits:
        name = compared(entry.cell).label
        table.add_row(name, "\n".join(entry.strengths), "\n".join(entry.weaknesses), entry.fits)
    return table


def table(comparison: Comparison) -> RenderableType:
    """The three comparisons, one below the other, and how they were measured."""
    machine = comparison.machine
    chance = comparison.recall[0].chance if comparison.recall else 0.0
    busy = Text("The machine was busy, so the times say little. " * machine.busy, style="bold red")
    foot = busy.append(
        f"{machine.processor}, {machine.threads} thread{'s' * (machine.threads > 1)}, "
        f"torch {machine.torch}. {_texts(comparison)}Step times: median, quartiles and steps per second, "
        "measured in turns. Recall: share of first symbols named after a gap, by two layers. Guessing gives "
        f"{chance:.0%}.",
        style="not bold dim",
    )
    parts = (_structure, _performance, _recall, _fits)
    return Group(*(part(comparison) for part in parts), foot)


def _texts(comparison: Comparison) -> str:
    """How the bits per byte were measured. "" if none were."""
    if not comparison.quality:
        return ""
    text = comparison.quality[0]
    return (
        f"Bits per byte on {text.predicted_bytes:,} held-out bytes of Python's library after "
        f"{text.trained_steps:,} training steps each. "
    )
