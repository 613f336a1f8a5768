"""The figure `step`: every contestant of a case measured in turns, case after case."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from bench.figures import Measured, Workload

from . import on_gpu, ours, roofline, torch_peers
from .cases import Case, select
from .others import Others
from .timing import Run, median_us

PEERS = ("torch layer", "torch cell", "torch compiled", "onnxruntime", "openvino")


def groups(options: argparse.Namespace, others: Others) -> Iterator[Sequence[Workload]]:
    """The contestants of each case; one case's weights are there at a time."""
    for name in ("onnxruntime", "openvino"):
        if name not in others.versions:
            print(f"skipped: {name} (not installed for --peers-python)", file=sys.stderr)
    if not options.compiled:
        print("skipped: torch compiled (takes seconds a case; --compiled)", file=sys.stderr)
    for case in select(options.cases, options.layers):
        torch.manual_seed(0)
        yield list(_contestants(case, options, others))


def _contestants(case: Case, options: argparse.Namespace, others: Others) -> Iterator[Workload]:
    seconds = options.seconds

    def workload(name: str, measure: Callable[[], float]) -> Workload:
        return Workload(f"{case.name}: {name}", partial(_measured, measure))

    for name, run in (*ours.runs(case), *torch_peers.runs(case, compiled=options.compiled)):
        yield workload(name, partial(_timed, run, seconds))
    for name in others.take(case):
        yield workload(name, partial(others.measure, name, seconds))
    yield workload("bound", partial(roofline.bound_us, case, seconds / 4))


@torch.inference_mode()
def _timed(run: Run, seconds: float) -> float:
    return median_us(run, seconds)


def _measured(measure: Callable[[], float]) -> Measured:
    return {"us": measure()}


def ratios(figures: Any) -> Iterator[tuple[str, float]]:
    """For each case ours over the best peer (target 1.25), on the slab over alone (1.1), over the bound.

    Of the fastest round of each: others use the machine too. A GPU's figures have ratios of their own.
    """
    if any(name.endswith(": limit") for name in figures):
        yield from on_gpu.ratios(figures)
        return

    def us(case: str, name: str) -> float:
        quantities = figures.get(f"{case}: {name}")
        return float(quantities["us"]["min"]) if quantities else float("inf")

    for case in dict.fromkeys(name.rsplit(": ", 1)[0] for name in figures):
        best = min(PEERS, key=partial(us, case))
        yield f"{case}: ours over {best} (D1 / D5)", us(case, "ours") / us(case, best)
        yield f"{case}: on the slab over alone (D2 / D1)", us(case, "slab") / us(case, "ours")
        yield f"{case}: ours over the bound (D1 / D4)", us(case, "ours") / us(case, "bound")
