"""A comparison as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import Comparison, Fit
from .tables import NAMES, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by colour-blind eyes and in grey print.
COLOURS = {"rnn": "#E69F00", "lstm": "#0072B2", "gru": "#009E73"}
# Curves that coincide stay visible: the marker drawn first is the largest.
SIZES = {"rnn": 6, "lstm": 9, "gru": 5}
MARKERS = {"rnn": "o", "lstm": "s", "gru": "^"}
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


def _bars(axes: Axes, title: str, unit: str, values: dict[str, float], form: str) -> None:
    """One bar per cell with its value on top."""
    bars = axes.bar(
        [NAMES[cell] for cell in values],
        list(values.values()),
        color=[COLOURS[cell] for cell in values],
        width=0.62,
    )
    axes.bar_label(bars, labels=[form.format(value) for value in values.values()], padding=3)
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.margins(y=0.16)


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
            fmt=MARKERS[entry.cell],
            color=COLOURS[entry.cell],
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
            color=COLOURS[cell],
            alpha=0.15,
            linewidth=0,
        )
        shares = [100 * entry.accuracy for entry in entries]
        axes.plot(
            gaps,
            shares,
            marker=MARKERS[cell],
            color=COLOURS[cell],
            label=NAMES[cell],
            markersize=SIZES[cell],
        )
    if comparison.recall:
        longest = max((e.gap for e in comparison.recall if e.trained), default=0)
        axes.axhline(100 * comparison.recall[0].chance, color=PALE, linestyle=":", linewidth=1)
        axes.axvline(longest, color=PALE, linestyle="--", linewidth=1)
        axes.text(longest * 1.06, 52, "longer than\nany trained", color=PALE, fontsize=8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({entry.gap for entry in comparison.recall}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(0.3, 0.76))
    axes.set_ylim(0, 108)
    axes.set_xlabel("steps between symbol and question")
    axes.set_ylabel("named rightly, %")
    axes.set_title("Recall of the first symbol")


def _fits(axes: Axes, fits: Sequence[Fit]) -> None:
    """The third comparison in words."""
    axes.axis("off")
    axes.set_title("Where each fits", loc="left")
    height = 1 / max(1, len(fits))
    for number, entry in enumerate(fits):
        top = 0.98 - number * height
        lines = [f"+ {text}" for text in entry.strengths] + [
            f"− {text}" for text in entry.weaknesses
        ]
        axes.text(
            0.0,
            top,
            NAMES[entry.cell],
            color=COLOURS[entry.cell],
            weight="bold",
            va="top",
            fontsize=11,
        )
        axes.text(0.17, top, textwrap.fill(entry.fits, 44), weight="bold", va="top", fontsize=9)
        axes.text(0.17, top - 0.062, "\n".join(lines), va="top", fontsize=8.5, linespacing=1.35)


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
        figure = Figure(figsize=(12.5, 7.4), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(2, 3)
        parameters = {s.cell: s.stack_parameters / 1e3 for s in comparison.structure}
        kept = {s.cell: float(s.state_bytes) for s in comparison.structure}
        bits = {q.cell: q.bits_per_byte for q in comparison.quality}
        gates = ", ".join(f"{NAMES[s.cell]} {s.gates}" for s in comparison.structure)
        _bars(grid[0, 0], f"Parameters (gate blocks: {gates})", "thousands", parameters, "{:.0f}k")
        _bars(grid[0, 1], "State kept per session", "bytes", kept, "{:,.0f}")
        _bars(grid[0, 2], "Unseen Python code: lower is better", "bits per byte", bits, "{:.3f}")
        _speed(grid[1, 0], comparison)
        _recall(grid[1, 1], comparison)
        _fits(grid[1, 2], comparison.fits)
        figure.suptitle(
            "RNN, LSTM and GRU, measured", weight="bold", fontsize=14, x=0.01, ha="left"
        )
        figure.supxlabel(_caption(comparison), fontsize=8, color=PALE, x=0.01, ha="left")
        figure.savefig(path, dpi=150)


def _caption(comparison: Comparison) -> str:
    machine, shape, quality = comparison.machine, comparison.structure[0], comparison.quality[0]
    return (
        f"{shape.layers} layer of {shape.hidden} in each model, {quality.trained_steps:,} training steps "
        f"each, {quality.predicted_bytes:,} held-out bytes.  {machine.processor}, {machine.threads} "
        f"thread{'s' * (machine.threads > 1)}, torch {machine.torch}, Python {machine.python}."
    )
