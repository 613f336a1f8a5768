"""Kernels: ways to compute the steps of built-in layers. They differ in speed and rounding only."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from carousel_models.errors import KernelError
from carousel_models.lookup import entry

from .cpu import Cpu
from .graphs import CudaRecorder
from .interface import Kernel, Linear, Link, Step
from .library import load_library
from .outlooks import outlook
from .reference import Reference

__all__ = ["Kernel", "Linear", "Link", "Reference", "Step", "choose", "outlook"]

log = logging.getLogger(__name__)


def choose(wanted: str, device: torch.device) -> Kernel:
    """The kernel for models on a device.

    Args:
        wanted: "reference", "cpu", "cuda" or "auto". On a CPU, auto is the fastest that this machine can
            run. On CUDA it is the reference, because `cuda` has not been measured there.
        device: of the models' weights.

    Raises:
        KernelError: the named kernel cannot run here.
    """
    if wanted == "auto":
        return _auto(device)
    open_kernel = entry(KERNELS, wanted, "kernel", KernelError, "choose one of these, or auto")
    if wanted not in ("reference", device.type):
        raise KernelError(f"the kernel {wanted!r} does not run on {device.type}")
    return open_kernel(device)


def _auto(device: torch.device) -> Kernel:
    if device.type == "cpu":
        try:
            return _cpu(device)
        except KernelError as unavailable:
            log.info("the reference kernel computes steps: %s", unavailable)
    return Reference()


def _reference(_: torch.device) -> Kernel:
    return Reference()


def _cpu(_: torch.device) -> Kernel:
    return Cpu(load_library())


def _cuda(device: torch.device) -> Kernel:
    try:
        from .cuda import open_cuda
    except ImportError as missing:
        raise KernelError(
            f"the kernel 'cuda' needs Triton, which torch's builds for CUDA bring along ({missing}); "
            "install such a build, or serve with kernel=reference"
        ) from missing
    return open_cuda(device, CudaRecorder())


KERNELS: dict[str, Callable[[torch.device], Kernel]] = {
    "reference": _reference,
    "cpu": _cpu,
    "cuda": _cuda,
}
"""What opens each kernel. Their names are those of torch's devices, but for the reference."""
