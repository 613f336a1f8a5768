"""Figures and pictures of runs with the C++ echo, and of those without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bench import blocks, incumbent, plots
from bench.report import Summary


def summary(names: Mapping[str, float]) -> Summary:
    return {
        name: {
            key: {"median": value, "min": value, "max": value}
            for key in ("steps_per_s", "p50_ms", "p99_ms")
        }
        for name, value in names.items()
    }


def of_blocks(**rates: float) -> Summary:
    return summary(
        {
            f"{who.replace('_', ' ')}: {blocks._shape(m, k)}": rate
            for who, rate in rates.items()
            for m, k in blocks.SHAPES
        }
    )


def of_triton(**rates: float) -> Summary:
    names = {
        incumbent._name(who.replace("_", " "), count): rate
        for who, rate in rates.items()
        for count in incumbent.IN_FLIGHT
    }
    calls = {incumbent._name(who, incumbent.CALLS, " by calls"): 1.0 for who in rates}
    return summary({**names, **calls, f"carousel: {incumbent.BLOCKS}": 1.0})


def test_blocks_are_compared_with_the_native_echo_where_there_was_one() -> None:
    without = dict(blocks.ratios(of_blocks(engine=4, echo=8, carousel=2)))
    assert set(without.values()) == {0.5}
    both = dict(blocks.ratios(of_blocks(engine=4, echo=8, carousel=2, native_echo=10)))
    assert both.items() > without.items()
    assert both["1 × 1: the echo over the native echo"] == pytest.approx(0.8)


def test_steps_are_compared_with_the_native_echo_where_there_was_one() -> None:
    without = dict(incumbent.ratios(of_triton(carousel=2, triton=1, echo=4)))
    both = dict(incumbent.ratios(of_triton(carousel=2, triton=1, echo=4, native_echo=8)))
    assert both.items() > without.items()
    new = {what: value for what, value in both.items() if what not in without}
    assert new == {
        f"{count} in flight: Carousel over the native echo (steps per second)": 0.25
        for count in incumbent.IN_FLIGHT
    }


def watched(
    draw: Any, drawn: dict[str, list[str]], axes: Any, labels: Any, series: Any, colors: Any
) -> None:
    """Draws, and notes which series a figure has."""
    drawn[labels[0]] = list(series)
    draw(axes, labels, series, colors)


@pytest.mark.parametrize("native_rate", [{}, {"native_echo": 8.0}], ids=["without", "with"])
def test_pictures_are_drawn_with_it_and_without(
    native_rate: dict[str, float], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(plots, "RESULTS", tmp_path)
    monkeypatch.setattr(plots, "IMAGES", tmp_path)
    drawn: dict[str, list[str]] = {}
    for kind in ("_bars", "_dots"):
        monkeypatch.setattr(plots, kind, partial(watched, getattr(plots, kind), drawn))
    figures = {
        "blocks": of_blocks(engine=4, echo=8, carousel=2, **native_rate),
        "triton": of_triton(carousel=2, triton=1, echo=4, **native_rate),
    }
    for name, figure in figures.items():
        (tmp_path / f"{name}-cpu.json").write_text(json.dumps({"figures": figure}))
    assert plots.main() == 0
    assert {file.name for file in tmp_path.glob("*.png")} == {"perf-blocks.png", "perf-triton.png"}
    for first_label in ("1 × 1", "1"):
        assert ("no model: gRPC echo in C++" in drawn[first_label]) == bool(native_rate)
