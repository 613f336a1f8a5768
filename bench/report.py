"""The results as a page: a table, and the ratios that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .bounds import BATCHES
from .served import SESSIONS

Summary = Mapping[str, Mapping[str, Mapping[str, float]]]

Ratios = Callable[[Summary], Iterator[tuple[str, float]]]


def page(report: Mapping[str, Any], ratios: Ratios) -> str:
    """Markdown of one report."""
    machine, figures = report["machine"], report["figures"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["libraries"].items())
    return "\n".join(
        [
            f"# Measured on {machine['device']}",
            "",
            (
                f"{machine['cpu']}, {machine['cores']} cores shared by client and server, Python "
                f"{machine['python']}, {versions}; {machine['measured_at']}, load "
                f"{machine['load_at_start']:.2f} at the start. Medians of rounds that alternate; "
                "smallest and largest beside them. Only ratios within one run mean much."
            ),
            "",
            "| ratio | value |",
            "|---|---|",
            *(f"| {what} | {value:.2f} |" for what, value in ratios(figures)),
            "",
            "| workload | quantity | median | smallest … largest |",
            "|---|---|---|---|",
            *_rows(figures),
            "",
            *_bits(report.get("bits", {})),
        ]
    )


def foundation_ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """What the engine adds to the model's step, and what the model adds to the echo."""

    def median(name: str, quantity: str) -> float:
        return figures[name][quantity]["median"]

    for n in BATCHES:
        yield (
            f"engine tick, {n} sessions, over the model's step of {n} rows (time)",
            median(f"engine tick, {n} sessions", "run_us")
            / median(f"model step, {n} rows", "run_us"),
        )
        if "device_us" in figures[f"model step, {n} rows"]:
            device_us = median(f"model step, {n} rows", "device_us")
            host_us = median(f"engine tick, {n} sessions", "run_us") - device_us
            yield (
                f"engine tick, {n} sessions: the host's time over the device's",
                host_us / device_us,
            )
    ways = [f"{n} sessions, a message a step" for n in SESSIONS]
    ways += [name.removeprefix("echo: ") for name in figures if name.startswith("echo: blocks")]
    for way in ways:
        yield (
            f"served over echo: {way} (steps per second)",
            median(f"carousel: {way}", "steps_per_s") / median(f"echo: {way}", "steps_per_s"),
        )


def _bits(classes: Mapping[str, Any]) -> Iterator[str]:
    """Which batch sizes round alike, where that was measured."""
    if classes:
        told = (
            f"{name} {' '.join('{' + ', '.join(map(str, sizes)) + '}' for sizes in groups)}"
            for name, groups in classes.items()
        )
        yield f"Batch sizes that give a row the same bits: {'; '.join(told)}."
        yield ""


def _rows(figures: Summary) -> Iterator[str]:
    for name, quantities in figures.items():
        for quantity, v in quantities.items():
            spread = f"{v['min']:,.4g} … {v['max']:,.4g}"
            yield f"| {name} | {quantity} | {v['median']:,.4g} | {spread} |"
