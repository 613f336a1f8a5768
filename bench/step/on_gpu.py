"""The figure `step` on a CUDA device: D1 and D2 beside its limits, the host's time beside the device's."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from bench.figures import Measured, Workload
from carousel_models.kernels import Kernel, choose

from . import ours, torch_peers
from .cases import GPU, Case, select
from .device_timing import times
from .limits import Limits
from .timing import Run

TARGET = 1.5
"""Of D1 over its limit."""

KERNEL = "cuda"
"""What is measured as `ours` unless --kernel says otherwise: auto is the reference, which is beside it."""

Times = Callable[[Run, float], Measured]


def groups(
    options: argparse.Namespace,
    device: torch.device,
    limits: Limits | None = None,
    timed: Times = times,
) -> Iterator[Sequence[Workload]]:
    """The contestants of each case; one case's weights are there at a time."""
    wanted = KERNEL if options.kernel == "auto" else options.kernel
    kernels = {"ours": choose(wanted, device), "reference": choose("reference", device)}
    limits = limits or Limits(device, options.seconds)
    # What it is beside keeps to float32 as well.
    torch.backends.cudnn.allow_tf32 = False

    def measure(run: Run) -> Measured:
        return timed(run, options.seconds)

    for case in select(options.cases, options.layers, GPU):
        torch.manual_seed(0)
        yield list(_contestants(case, device, kernels, limits, measure))


def _contestants(
    case: Case,
    device: torch.device,
    kernels: dict[str, Kernel],
    limits: Limits,
    timed: Callable[[Run], Measured],
) -> Iterator[Workload]:
    mine, plain = (ours.model_of(case, kernel, device) for kernel in kernels.values())
    runs = {
        "ours": ours.alone(case, mine),
        "slab": ours.on_slab(case, mine),
        "reference": ours.alone(case, plain),
        "torch layer": torch_peers.layer(case, device),
    }
    for name, run in runs.items():
        yield Workload(f"{case.name}: {name}", partial(_timed, run, timed))
    yield Workload(f"{case.name}: limit", partial(limits.of, case))


@torch.inference_mode()
def _timed(run: Run, timed: Callable[[Run], Measured]) -> Measured:
    return timed(run)


def ratios(figures: Any) -> Iterator[tuple[str, float]]:
    """For each case D1 over its limit, on the slab over alone, host over device (target: below 1).

    Of the fastest round of each: others use the machine too.
    """

    def least(case: str, name: str, quantity: str = "device_us") -> float:
        return float(figures[f"{case}: {name}"][quantity]["min"])

    cases = list(dict.fromkeys(name.rsplit(": ", 1)[0] for name in figures))
    of_limit = {case: least(case, "ours") / least(case, "limit", "us") for case in cases}
    within = sum(value <= TARGET for value in of_limit.values())
    yield f"share of cases within {TARGET} of their limit", within / len(cases)
    for case in cases:
        alone, slab = least(case, "ours"), least(case, "slab")
        yield f"{case}: ours over its limit (D1 / D4)", of_limit[case]
        yield f"{case}: on the slab over alone (D2 / D1)", slab / alone
        yield f"{case}: the reference over ours", least(case, "reference") / alone
        yield f"{case}: torch's layer over ours (D5)", least(case, "torch layer") / alone
        yield f"{case}: the host's time over the device's", least(case, "slab", "host_us") / slab
