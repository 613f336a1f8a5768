"""Kernels: ways to compute the steps of built-in layers. They differ in speed and rounding only."""

from __future__ import annotations

import logging

import torch

from carousel_models.errors import KernelError

from .cpu import Cpu
from .interface import Kernel, Linear, Step
from .library import load_library
from .reference import Reference

__all__ = ["Kernel", "Linear", "Reference", "Step", "choose"]

log = logging.getLogger(__name__)


def choose(wanted: str, device: torch.device) -> Kernel:
    """The kernel for models on a device.

    Args:
        wanted: "reference", "cpu", or "auto" for the fastest that this machine can run.
        device: where the models' weights are.

    Raises:
        KernelError: "cpu" is wanted, and cannot be had here.
    """
    if wanted == "reference":
        return Reference()
    if device.type != "cpu":
        if wanted == "auto":
            return Reference()
        raise KernelError(f"the kernel {wanted!r} does not run on {device.type}")
    try:
        return Cpu(load_library())
    except KernelError as unavailable:
        if wanted != "auto":
            raise
        log.info("steps are computed by the reference kernel: %s", unavailable)
        return Reference()
