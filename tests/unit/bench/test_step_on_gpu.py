"""The figure `step` of a CUDA device, on a device that is a list of what it was asked."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bench.step import device_timing, on_gpu
from bench.step.cases import Case
from bench.step.limits import Limits
from torch import Tensor

CPU = torch.device("cpu")


class FakeCuda:
    """Works 40 µs a call at 1,000 cycles a µs; the host needs 7 µs to ask for one."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.busy_until_s = 0.0
        self.starved = 0

    def work(self, seconds: float) -> None:
        self.starved += self.busy_until_s < self.now_s
        self.busy_until_s = max(self.busy_until_s, self.now_s) + seconds

    def call(self) -> None:
        self.now_s += 7e-6
        self.work(40e-6)

    def _sleep(self, cycles: int) -> None:
        self.work(cycles / 1e9)

    def synchronize(self) -> None:
        self.now_s = max(self.now_s, self.busy_until_s)

    def Event(self, *, enable_timing: bool) -> Any:  # noqa: N802
        cuda = self

        class Event:
            def record(self) -> None:
                self.at_s = max(cuda.busy_until_s, cuda.now_s)

            def elapsed_time(self, other: Any) -> float:
                return float(other.at_s - self.at_s) * 1e3

        return Event()


def test_the_device_and_the_host_are_timed_apart() -> None:
    cuda = FakeCuda()
    found = device_timing.times(cuda.call, 0.01, cuda, lambda: cuda.now_s)
    assert found == pytest.approx({"device_us": 40, "host_us": 7})


def test_a_device_that_is_faster_than_the_host_is_not_measured_waiting() -> None:
    cuda = FakeCuda()

    def call() -> None:
        cuda.now_s += 30e-6
        cuda.work(4e-6)

    found = device_timing.times(call, 0.01, cuda, lambda: cuda.now_s)
    assert found == pytest.approx({"device_us": 4, "host_us": 30})


class Recorder:
    """Records nothing: replays by running."""

    def rehearse(self, run: Callable[[], tuple[Tensor, ...]]) -> None:
        run()

    def record(self, run: Callable[[], tuple[Tensor, ...]]) -> Any:
        return run, run()


def limits(us: float) -> Limits:
    """Everything takes as long."""
    return Limits(CPU, 0.0, Recorder(), lambda run, _s: (run(), us)[1], copied_bytes=4000, side=10)


def test_the_limit_is_the_greatest_of_three() -> None:
    case = Case("lstm", "float32", 8, 2, 3)
    found = limits(2.0).of(case)
    assert found["launches_us"] == 2.0
    assert found["bandwidth_us"] == pytest.approx(case.bytes_moved / 4000)
    assert found["compute_us"] == pytest.approx(case.operations / 1000)
    assert found["us"] == max(found.values())


def test_each_limit_is_measured_once() -> None:
    asked = []
    known = limits(1.0)
    known.time_us = lambda run, _seconds: asked.append(run) or 1.0
    for case in (Case("lstm", "float32", 8, 2, 3), Case("gru", "float32", 16, 2, 9)):
        known.of(case)
    assert len(asked) == 3
    known.of(Case("gru", "bfloat16", 16, 4, 9))
    assert len(asked) == 5


def test_every_contestant_of_a_case_is_measured() -> None:
    options = Namespace(
        cases="gru 2x512 float32, 1 rows", layers=None, seconds=0.0, kernel="reference"
    )
    (group,) = on_gpu.groups(options, CPU, limits(1.0), _timed)
    found = {work.name.rsplit(": ", 1)[1]: work.measure() for work in group}
    assert list(found) == ["ours", "slab", "reference", "torch layer", "limit"]
    assert found["ours"] == {"device_us": 3.0, "host_us": 1.0}
    summary = {
        f"a: {name}": {quantity: {"min": value} for quantity, value in measured.items()}
        for name, measured in found.items()
    }
    assert all(value > 0 for _, value in on_gpu.ratios(summary))


def _timed(run: Callable[[], object], seconds: float) -> dict[str, float]:
    run()
    return {"device_us": 3.0, "host_us": 1.0}


def test_ratios_are_over_the_limit() -> None:
    times = {
        "ours": {"device_us": 12.0, "host_us": 5.0},
        "slab": {"device_us": 15.0, "host_us": 6.0},
        "reference": {"device_us": 24.0, "host_us": 99.0},
        "torch layer": {"device_us": 18.0, "host_us": 99.0},
        "limit": {"us": 10.0},
    }
    figures = {
        f"a, 1 rows: {name}": {quantity: {"min": us} for quantity, us in measured.items()}
        for name, measured in times.items()
    }
    assert dict(on_gpu.ratios(figures)) == {
        "share of cases within 1.5 of their limit": 1.0,
        "a, 1 rows: ours over its limit (D1 / D4)": 1.2,
        "a, 1 rows: on the slab over alone (D2 / D1)": 1.25,
        "a, 1 rows: the reference over ours": 2.0,
        "a, 1 rows: torch's layer over ours (D5)": 1.5,
        "a, 1 rows: the host's time over the device's": 0.4,
    }
