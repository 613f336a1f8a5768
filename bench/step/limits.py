"""D4 on a CUDA device: its memory, its products and its launches, each measured once and alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from bench.figures import Measured
from carousel_models.kernels.graphs import CudaRecorder, Recorder
from carousel_models.kernels.packed import product

from .cases import Case
from .device_timing import device_us
from .timing import Run

_COPIED_BYTES = 1 << 29
"""More than any cache holds."""

_SIDE = 8192
"""Of the square matrices that are multiplied."""


@dataclass
class Limits:
    """What no step can be faster than.

    Attributes:
        device: where it is measured.
        seconds: of each measurement.
        recorder: makes graphs.
        time_us: how long a call takes the device.
        copied_bytes: of the copy that measures memory.
        side: of the matrices that measure products.
    """

    device: torch.device
    seconds: float
    recorder: Recorder = field(default_factory=CudaRecorder)
    time_us: Callable[[Run, float], float] = device_us
    copied_bytes: int = _COPIED_BYTES
    side: int = _SIDE
    _known: dict[object, float] = field(default_factory=dict)

    def of(self, case: Case) -> Measured:
        """Microseconds by each limit, and `us`, the greatest of them."""
        found = {
            "launches_us": self._once(("launches", case.launches), self._launches_us, case),
            "bandwidth_us": case.bytes_moved / self._once("bytes", self._bytes_per_us, case),
            "compute_us": case.operations / self._once(case.dtype, self._operations_per_us, case),
        }
        return {"us": max(found.values()), **found}

    def _once(self, name: object, measure: Callable[[Case], float], case: Case) -> float:
        if name not in self._known:
            self._known[name] = measure(case)
        return self._known[name]

    def _launches_us(self, case: Case) -> float:
        """A graph of as many launches as the step must have at least, which have nothing to do."""
        one = torch.zeros(1, device=self.device)

        def run() -> tuple[torch.Tensor, ...]:
            for _ in range(case.launches):
                one.add_(1)
            return (one,)

        self.recorder.rehearse(run)
        replay, _ = self.recorder.record(run)
        return self.time_us(replay, self.seconds)

    def _bytes_per_us(self, _case: Case) -> float:
        source = torch.ones(self.copied_bytes // 4, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.nbytes / self.time_us(lambda: target.copy_(source), self.seconds)

    def _operations_per_us(self, case: Case) -> float:
        x, weight = (
            torch.randn(self.side, self.side, device=self.device).to(case.torch_dtype)
            for _ in range(2)
        )
        return 2 * self.side**3 / self.time_us(lambda: product(x, weight), self.seconds)
