"""A comparison as tables for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .results import Comparison

NAMES = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}


def _table(title: str, first: str, cells: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    table.add_column(first, style="bold")
    for cell in cells:
        table.add_column(NAMES.get(cell, cell), justify="right")
    return table


def seconds(value: float) -> str:
    """A time with a suitable unit."""
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.2f} ms"


def _structure(comparison: Comparison) -> Table:
    entries = comparison.structure
    table = _table("1 Structure", "one layer", [entry.cell for entry in entries])
    table.add_row("gate blocks", *(str(entry.gates) for entry in entries))
    table.add_row("kept per session", *(", ".join(entry.state_tensors) for entry in entries))
    table.add_row("state bytes", *(f"{entry.state_bytes:,}" for entry in entries))
    table.add_row("recurrent parameters", *(f"{entry.stack_parameters:,}" for entry in entries))
    table.add_row("all parameters", *(f"{entry.parameters:,}" for entry in entries))
    table.add_row("package", *(f"{entry.package_bytes / 1e6:.2f} MB" for entry in entries))
    return table


def _performance(comparison: Comparison) -> Table:
    entries = comparison.quality
    table = _table("2 Performance", "measured now", [entry.cell for entry in entries])
    table.add_row("bits per byte", *(f"{entry.bits_per_byte:.3f}" for entry in entries))
    table.add_row("next byte right", *(f"{entry.accuracy:.1%}" for entry in entries))
    for batch in dict.fromkeys(entry.batch for entry in comparison.speed):
        row = [entry for entry in comparison.speed if entry.batch == batch]
        spread = (
            Text(f"{seconds(entry.median_s)} ").append(
                f"({seconds(entry.low_s)} … {seconds(entry.high_s)})", style="dim"
            )
            for entry in row
        )
        table.add_row(f"step, {batch} session{'s' * (batch > 1)}", *spread)
        table.add_row("  steps/s", *(f"{entry.steps_per_s:,.0f}" for entry in row))
    for gap in dict.fromkeys(entry.gap for entry in comparison.recall):
        shares = [entry for entry in comparison.recall if entry.gap == gap]
        label = f"recall after {gap}" + ("" if shares[0].trained else " (untrained length)")
        table.add_row(label, *(f"{entry.accuracy:.0%}" for entry in shares))
    return table


def _fits(comparison: Comparison) -> Table:
    table = Table(title="3 Where each fits", title_justify="left", title_style="bold")
    table.add_column("cell", style="bold")
    table.add_column("for")
    table.add_column("against")
    table.add_column("fits")
    for entry in comparison.fits:
        name = NAMES.get(entry.cell, entry.cell)
        table.add_row(name, "\n".join(entry.strengths), "\n".join(entry.weaknesses), entry.fits)
    return table


def table(comparison: Comparison) -> RenderableType:
    """The three comparisons, one below the other, and how they were measured."""
    machine, quality = comparison.machine, comparison.quality[0]
    chance = comparison.recall[0].chance if comparison.recall else 0.0
    busy = Text("The machine was busy, so the times say little. " * machine.busy, style="bold red")
    foot = busy.append(
        f"{machine.processor}, {machine.threads} thread{'s' * (machine.threads > 1)}, "
        f"torch {machine.torch}. Bits per byte on {quality.predicted_bytes:,} held-out bytes of Python's "
        f"library after {quality.trained_steps:,} training steps each. Step times: median (quartiles), "
        f"measured in turns. Recall: share of first symbols named after a gap; guessing gives "
        f"{chance:.0%}.",
        style="not bold dim",
    )
    return Group(_structure(comparison), _performance(comparison), _fits(comparison), foot)
