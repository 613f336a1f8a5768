"""`python -m bench.plots`: pictures of the committed results, for the pages under docs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from . import sequences, served
from .arrivals import KINDS
from .placing import picture as placement
from .report import Summary

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"

_OURS, _PEER, _BOUND, _OTHER = "#1f6f8b", "#c0694e", "#b8b8b8", "#7fb069"
_COLORS = {
    "carousel": _OURS, served.FRONT_END: "#63b3cf", served.GRPC_AIO: "#a7d3e0", "triton": _PEER,
    "engine": _OTHER, "echo": _BOUND, "native echo": "#6f6f6f",
}  # fmt: skip
_CASE = re.compile(r"(\w+) 1x(\d+) (\w+), (\d+) rows: (.+)")
_MINE = ("ours", "slab", "reference", "bound")


def main() -> int:
    """Draws what there are results for. Returns the exit code."""
    for name, draw in PLOTS.items():
        file = RESULTS / f"{name}.json"
        if not file.exists():
            print(f"{name}: SKIPPED: there is no {file.name}")
            continue
        # Parts that were measured again, such as step-fp32-cpu, stand beside the whole.
        files = [file, *RESULTS.glob(f"{name.removesuffix('-cpu')}-*-cpu.json")]
        draw({k: v for part in files for k, v in json.loads(part.read_text())["figures"].items()})
        target = IMAGES / f"perf-{name.removesuffix('-cpu')}.png"
        plt.savefig(target, dpi=110, bbox_inches="tight")
        plt.close("all")
        print(f"{name}: {target.name}")
    return 0


def _bars(
    axes: Any, labels: Sequence[str], series: Mapping[str, Sequence[float]], colors: Sequence[str]
) -> None:
    """Groups of bars, a bar of each series in every group."""
    width = 0.8 / len(series)
    for i, ((name, values), color) in enumerate(zip(series.items(), colors, strict=True)):
        at = np.arange(len(labels)) + (i - (len(series) - 1) / 2) * width
        axes.bar(at, values, width, label=name, color=color)
    _finish(axes, labels)


def _dots(
    axes: Any,
    labels: Sequence[str],
    series: Mapping[str, Sequence[Mapping[str, float]]],
    colors: Sequence[str],
) -> None:
    """Medians as dots on a logarithmic axis, each with a line from the least to the greatest round.

    A bar's length would mean nothing there: the axis has no zero.
    """
    width = 0.6 / len(series)
    for i, ((name, values), color) in enumerate(zip(series.items(), colors, strict=True)):
        at = np.arange(len(labels)) + (i - (len(series) - 1) / 2) * width
        medians = [value["median"] for value in values]
        axes.vlines(at, [v["min"] for v in values], [v["max"] for v in values], color=color, lw=1.5)
        axes.plot(at, medians, "o", label=name, color=color, markersize=7)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    for edge in np.arange(len(labels) - 1) + 0.5:
        axes.axvline(edge, color="#dddddd", lw=0.8)
    _finish(axes, labels)


def _finish(axes: Any, labels: Sequence[str]) -> None:
    axes.set_xticks(range(len(labels)), labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _triton(figures: Summary) -> None:
    counts = (1, 64, 256)
    who = {
        "NVIDIA Triton": "triton", "Carousel": "carousel", "Carousel on grpc.aio": served.GRPC_AIO,
        "Carousel with a front end": served.FRONT_END,
        "no model: gRPC echo in Python": "echo", "no model: gRPC echo in C++": "native echo",
    }  # fmt: skip
    who = {
        label: name for label, name in who.items() if f"{name}: {counts[0]} in flight" in figures
    }
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
    cases = {
        label: [figures[f"{name}: {n} in flight"] for n in counts] for label, name in who.items()
    }
    colors = [_COLORS[name] for name in who.values()]
    labels = [f"{n}" for n in counts]
    rates = {label: [c["steps_per_s"]["median"] for c in found] for label, found in cases.items()}
    _bars(left, labels, rates, colors)
    _dots(right, labels, {s: [c["p99_ms"] for c in found] for s, found in cases.items()}, colors)
    left.set_title("steps per second: more is better")
    left.yaxis.set_major_formatter("{x:,.0f}")
    right.set_title("99th percentile of a step's latency, ms: less is better")
    for axes in (left, right):
        axes.set_xlabel("sequences with a step in flight")
    right.get_legend().remove()  # the left one is for both


def _step(figures: Summary) -> None:
    """Ours over the fastest library, by size."""
    fastest: dict[tuple[str, str, int, int], dict[str, float]] = {}
    for name, quantities in figures.items():
        if (match := _CASE.fullmatch(name)) is not None:
            cell, hidden, dtype, rows, who = match.groups()
            case = fastest.setdefault((cell, dtype, int(hidden), int(rows)), {})
            case[who] = quantities["us"]["min"]
    kinds = sorted({key[:2] for key in fastest})
    hiddens = sorted({key[2] for key in fastest})
    batches = sorted({key[3] for key in fastest})
    _, grid = plt.subplots(1, len(kinds), figsize=(3.6 * len(kinds), 3.4), squeeze=False)
    for axes, kind in zip(grid[0], kinds, strict=True):
        ratios = np.asarray(
            [[_over_peers(fastest.get((*kind, h, b), {})) for b in batches] for h in hiddens]
        )
        axes.imshow(np.log2(ratios), cmap="RdYlGn_r", vmin=-1.5, vmax=1.5)
        for (i, j), ratio in np.ndenumerate(ratios):
            axes.text(j, i, f"{ratio:.2f}", ha="center", va="center")
        axes.set_xticks(range(len(batches)), [str(b) for b in batches])
        axes.set_yticks(range(len(hiddens)), [str(h) for h in hiddens])
        axes.set_title(f"{kind[0]}, {kind[1]}")
        axes.set_xlabel("rows")
    grid[0][0].set_ylabel("hidden size")
    plt.suptitle("time of a step over the fastest library's: below 1 ours is faster", y=1.04)


def _over_peers(times: dict[str, float]) -> float:
    peers = [us for who, us in times.items() if who not in _MINE]
    return times["ours"] / min(peers) if peers else float("nan")


def _beside_bounds(unit: str, axis: str) -> Callable[[Summary], None]:
    """Server, engine alone and, where there are any, echoes; a group for each shape. `axis` names it."""

    def draw(figures: Summary) -> None:
        shapes = list(dict.fromkeys(name.partition(": ")[2] for name in figures))
        names = {
            "Carousel": "carousel", "Carousel with a front end": served.FRONT_END,
            "its engine without gRPC": "engine",
            "no model: gRPC echo in Python": "echo", "no model: gRPC echo in C++": "native echo",
        }  # fmt: skip
        series = {
            label: [figures[f"{who}: {shape}"][unit] for shape in shapes]
            for label, who in names.items()
            if f"{who}: {shapes[0]}" in figures
        }
        _, axes = plt.subplots(figsize=(9, 3.8))
        labels = [shape.removeprefix("generation, ").removesuffix(" streams") for shape in shapes]
        _dots(axes, labels, series, [_COLORS[names[label]] for label in series])
        axes.set_title(f"{unit.replace('_per_s', ' per second')}: more is better")
        axes.set_xlabel(axis)

    return draw


def _crowded(figures: Summary) -> None:
    _, axes = plt.subplots(figsize=(6, 3.4))
    sizes = [int(name.split()[0].replace(",", "")) for name in figures]
    ticks = [quantities["tick_us"] for quantities in figures.values()]
    medians = np.asarray([tick["median"] for tick in ticks])
    spread = [
        medians - [tick["min"] for tick in ticks],
        np.asarray([tick["max"] for tick in ticks]) - medians,
    ]
    axes.errorbar(sizes, medians, spread, marker="o", color=_OURS, capsize=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(100, 2 * max(tick["max"] for tick in ticks))
    for way in (axes.xaxis, axes.yaxis):
        way.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("open sessions, of which 10 step")
    axes.set_title("time of one tick, µs: median, fastest and slowest round")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def _sequences(figures: Summary) -> None:
    """p99 by load, for each way and kind of lengths."""
    who = {
        "Carousel, Infer": (sequences.CAROUSEL, _OURS),
        "Carousel, a session for each": (sequences.SESSIONS, _COLORS[served.FRONT_END]),
        "padded batches, the usual way": (sequences.PADDED, _BOUND),
    }
    _, both = plt.subplots(1, len(KINDS), figsize=(9, 3.4), sharey=True)
    for axes, kind in zip(both, KINDS, strict=True):
        for label, (system, color) in who.items():
            p99_ms = [
                figures[f"{system}: {kind}, load {share}"]["p99_ms"]["median"]
                for share in sequences.SHARES
            ]
            axes.plot(sequences.SHARES, p99_ms, marker="o", label=label, color=color)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel("load: share of the highest rate")
        axes.set_title(f"length of a sequence: {kind}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    both[0].set_ylabel("99th percentile of the latency, ms")
    both[1].legend(frameon=False, loc="upper left")


PLOTS: dict[str, Callable[[Summary], None]] = {
    "triton-cpu": _triton,
    "step-cpu": _step,
    "blocks-cpu": _beside_bounds("steps_per_s", "sessions × steps in each message"),
    "generation-cpu": _beside_bounds("tokens_per_s", "texts generated at once"),
    "crowded-cpu": _crowded,
    "sequences-cpu": _sequences,
    "placement-cpu": placement.draw,
}

if __name__ == "__main__":
    sys.exit(main())
