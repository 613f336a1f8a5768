"""Kernels: ways to compute the steps of built-in layers. They differ in speed and rounding only."""

from __future__ import annotations

import logging

import torch

from carousel_models.errors import KernelError

from .cpu import Cpu
from .graphs import CudaRecorder
from .interface import Kernel, Linear, Link, Step
from .library import load_library
from .reference import Reference

__all__ = ["Kernel", "Linear", "Link", "Reference", "Step", "choose"]

log = logging.getLogger(__name__)


def choose(wanted: str, device: torch.device) -> Kernel:
    """The kernel for models on a device.

    Args:
        wanted: "reference", "cpu", "cuda", or "auto": on a CPU the faster that this machine can run, on
            CUDA the reference, as long as `cuda` has not been measured there.
        device: where the models' weights are.

    Raises:
        KernelError: what is wanted by name cannot be had here.
    """
    if wanted == "reference" or (wanted == "auto" and device.type != "cpu"):
        return Reference()
    if wanted not in ("auto", device.type):
        raise KernelError(f"the kernel {wanted!r} does not run on {device.type}")
    return _cuda(device) if wanted == "cuda" else _cpu(wanted)


def _cuda(device: torch.device) -> Kernel:
    try:
        from .cuda import open_cuda
    except ImportError as missing:
        raise KernelError(
            f"the kernel 'cuda' needs Triton, which torch's builds for CUDA bring along ({missing}); "
            "install such a build, or serve with kernel=reference"
        ) from missing
    return open_cuda(device, CudaRecorder())


def _cpu(wanted: str) -> Kernel:
    try:
        return Cpu(load_library())
    except KernelError as unavailable:
        if wanted != "auto":
            raise
        log.info("steps are computed by the reference kernel: %s", unavailable)
        return Reference()
