"""A comparison as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cells import compared
from .results import Comparison, Fit
from .tables import seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
PALE = "#777777"
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
    "font.size": 9,
    "text.color": INK,
}


COLUMNS = 3
"""Cells beside each other in the comparison in words."""


def _bars(
    axes: Axes, title: str, unit: str, values: dict[str, float], form: str, *, log: bool = False
) -> None:
    """One bar per cell with its value at its end."""
    cells = [compared(name) for name in values]
    bars = axes.barh(
        [cell.label for cell in cells],
        list(values.values()),
        color=[cell.colour for cell in cells],
        height=0.7,
    )
    axes.bar_label(bars, labels=[form.format(value) for value in values.values()], padding=3)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlabel(unit)
    if log:
        axes.set_xscale("log")
    axes.margins(x=0.18)


def _speed(axes: Axes, comparison: Comparison) -> None:
    """The step's time as dots with the quartiles. The scale is logarithmic, so it has no zero for bars."""
    batches = list(dict.fromkeys(entry.batch for entry in comparison.speed))
    cells = list(dict.fromkeys(entry.cell for entry in comparison.speed))
    width = 0.8 / len(cells)
    for entry in comparison.speed:
        place = (
            batches.index(entry.batch) + (cells.index(entry.cell) - (len(cells) - 1) / 2) * width
        )
        spread = [[entry.median_s - entry.low_s], [entry.high_s - entry.median_s]]
        axes.errorbar(
            place,
            entry.median_s,
            spread,
            fmt=compared(entry.cell).marker,
            color=compared(entry.cell).colour,
            markersize=7,
            capsize=3,
        )
        axes.annotate(
            seconds(entry.median_s),
            (place, entry.high_s),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            rotation=90,
            fontsize=7.5,
        )
    axes.set_yscale("log")
    axes.set_xticks(range(len(batches)), [f"{batch}" for batch in batches])
    axes.set_xlabel("sessions in the batch")
    axes.yaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.set_ylabel("time of a step")
    axes.set_title("Time of one step: median and quartiles")
    highest = max(entry.high_s for entry in comparison.speed)
    axes.set_ylim(top=6 * highest)  # room for the numbers


def _recall(axes: Axes, comparison: Comparison) -> None:
    """Accuracy over the gap, with the range over the seeds."""
    for cell in dict.fromkeys(entry.cell for entry in comparison.recall):
        entries = [entry for entry in comparison.recall if entry.cell == cell]
        gaps = [entry.gap for entry in entries]
        axes.fill_between(
            gaps,
            [100 * entry.low for entry in entries],
            [100 * entry.high for entry in entries],
            color=compared(cell).colour,
            alpha=0.1,
            linewidth=0,
        )
        shares = [100 * entry.accuracy for entry in entries]
        axes.plot(
            gaps,
            shares,
            marker=compared(cell).marker,
            color=compared(cell).colour,
            label=compared(cell).label,
            markersize=compared(cell).size,
        )
    if comparison.recall:
        longest = max((e.gap for e in comparison.recall if e.trained), default=0)
        axes.axhline(100 * comparison.recall[0].chance, color=PALE, linestyle=":", linewidth=1)
        axes.axvline(longest, color=PALE, linestyle="--", linewidth=1)
        axes.text(longest * 1.06, 52, "longer than\nany trained", color=PALE, fontsize=8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({entry.gap for entry in comparison.recall}))
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(0, 108)
    axes.set_xlabel("steps between symbol and question")
    axes.set_ylabel("named rightly, %")
    axes.set_title("Recall of the first symbol")


def _fits(axes: Axes, fits: Sequence[Fit]) -> None:
    """The third comparison in words, a few cells beside each other."""
    axes.axis("off")
    axes.set_title("Where each fits", loc="left", pad=12)
    rows = -(-len(fits) // COLUMNS)
    for number, entry in enumerate(fits):
        left, top = number % COLUMNS / COLUMNS, 1 - number // COLUMNS / rows
        lines = [f"+ {text}" for text in entry.strengths]
        lines += [f"− {text}" for text in entry.weaknesses]
        cell = compared(entry.cell)
        axes.text(left, top, cell.label, color=cell.colour, weight="bold", va="top", fontsize=11)
        verdict = textwrap.fill(entry.fits, 46)
        axes.text(left + 0.065, top, verdict, weight="bold", va="top", fontsize=9)
        below = top - (0.02 + 0.045 * (1 + verdict.count("\n")))
        axes.text(left + 0.065, below, "\n".join(lines), va="top", fontsize=8.5, linespacing=1.3)


def plot(comparison: Comparison, path: Path | str) -> None:
    """Draws the comparison into a file; its suffix chooses the format, such as .png or .svg.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (extra `zoo`).
        ValueError: matplotlib knows no such format.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14, 12), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(3, 3, height_ratios=(1, 1.15, 1.25))
        parameters = {s.cell: s.stack_parameters / 1e3 for s in comparison.structure}
        kept = {s.cell: float(s.state_bytes) for s in comparison.structure}
        bits = {q.cell: q.bits_per_byte for q in comparison.quality}
        panels = [figure.add_subplot(grid[0, column]) for column in range(3)]
        _bars(panels[0], "Recurrent parameters", "thousands", parameters, "{:.0f}k")
        _bars(panels[1], "State kept per session", "bytes", kept, "{:,.0f}", log=True)
        _bars(panels[2], "Unseen Python code: lower is better", "bits per byte", bits, "{:.3f}")
        _speed(figure.add_subplot(grid[1, :2]), comparison)
        _recall(figure.add_subplot(grid[1, 2]), comparison)
        _fits(figure.add_subplot(grid[2, :]), comparison.fits)
        figure.suptitle("Recurrent cells, measured", weight="bold", fontsize=14, x=0.01, ha="left")
        _legend(figure, comparison)
        figure.supxlabel(_caption(comparison), fontsize=8, color=PALE, x=0.01, ha="left")
        figure.savefig(path, dpi=150)


def _legend(figure: Figure, comparison: Comparison) -> None:
    """The marks of all cells, for every panel."""
    from matplotlib.lines import Line2D

    cells = [compared(entry.cell) for entry in comparison.structure]
    marks = [
        Line2D([], [], color=cell.colour, marker=cell.marker, label=cell.label) for cell in cells
    ]
    figure.legend(handles=marks, ncols=len(marks), frameon=False, loc="upper right")


def _caption(comparison: Comparison) -> str:
    machine, shape = comparison.machine, comparison.structure[0]
    texts = "".join(
        f"{text.trained_steps:,} training steps each, {text.predicted_bytes:,} held-out bytes.  "
        for text in comparison.quality[:1]
    )
    return (
        f"{shape.layers} layer of {shape.hidden} in each model.  {texts}{machine.processor}, "
        f"{machine.threads} thread{'s' * (machine.threads > 1)}, torch {machine.torch}, "
        f"Python {machine.python}."
    )
