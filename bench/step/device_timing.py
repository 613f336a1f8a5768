"""How long a call takes a CUDA device, and how long it takes the host to ask for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.figures import Measured

from .timing import Run

_CALLS = 10
"""Of one burst: few enough that the device's queue holds all their launches."""

_HEAD_START = 1.5
"""How much longer the device is kept busy than the host took for the same calls before."""


def times(
    run: Run,
    seconds: float,
    cuda: Any = torch.cuda,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Medians of a call in bursts: `device_us` by events, `host_us` by the clock.

    Before each burst the device is given something to do for as long as the host needs to ask for the calls,
    so that it never waits for the host within them: what is measured is the device's own time.
    """
    run()
    cuda.synchronize()
    cycles_per_s = _cycles_per_s(cuda)
    asked_s = _asked_s(run, cuda, clock)
    device_us: list[float] = []
    host_us: list[float] = []
    end = clock() + seconds
    while len(device_us) < 3 or clock() < end:
        first, last = (cuda.Event(enable_timing=True) for _ in range(2))
        _pause(cuda, int(_HEAD_START * asked_s * cycles_per_s))
        first.record()
        began = clock()
        for _ in range(_CALLS):
            run()
        asked_s = clock() - began
        last.record()
        cuda.synchronize()
        device_us.append(first.elapsed_time(last) * 1e3 / _CALLS)
        host_us.append(asked_s * 1e6 / _CALLS)
    return {"device_us": statistics.median(device_us), "host_us": statistics.median(host_us)}


def device_us(run: Run, seconds: float, cuda: Any = torch.cuda) -> float:
    """The device's part of it."""
    return times(run, seconds, cuda)["device_us"]


def _asked_s(run: Run, cuda: Any, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(_CALLS):
        run()
    asked_s = clock() - began
    cuda.synchronize()
    return asked_s


def _cycles_per_s(cuda: Any, cycles: int = 1_000_000) -> float:
    """Of the device's own pause, which counts in cycles."""
    first, last = (cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    _pause(cuda, cycles)
    last.record()
    cuda.synchronize()
    return cycles / float(first.elapsed_time(last)) * 1e3


def _pause(cuda: Any, cycles: int) -> None:
    """Keeps the device busy, as torch's own tests do."""
    cuda._sleep(cycles)  # noqa: SLF001
