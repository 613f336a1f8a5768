"""Checks tensors before native code reads their memory, also under `python -O`."""

from __future__ import annotations

import torch
from torch import Tensor

from carousel_models.cells import Weights


def checked(tensor: Tensor, shape: tuple[int, int], name: str) -> Tensor:
    """The tensor, row after row, if it is float32[shape] in this machine's memory.

    Raises:
        TypeError: it has another type, or is on another device.
        ValueError: it has another shape.
    """
    if tensor.dtype is not torch.float32 or not tensor.is_cpu:
        raise TypeError(f"{name} is {_kind(tensor)} instead of torch.float32 on cpu")
    if tensor.shape != shape:
        raise ValueError(f"{name} is {list(tensor.shape)} instead of {list(shape)}")
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def check_slots(slots: Tensor, n: int) -> None:
    """Slots must be int64[n], one after the other; TypeError or ValueError if they are not."""
    if slots.dtype is not torch.int64 or not slots.is_cpu:
        raise TypeError(f"slots are {_kind(slots)} instead of torch.int64 on cpu")
    if slots.shape != (n,):
        raise ValueError(f"slots are {list(slots.shape)} instead of {[n]}")
    if not slots.is_contiguous():
        raise ValueError("slots do not lie one after the other")


def check_targets(targets: tuple[Tensor, ...]) -> None:
    """Targets must be [rows, …], row after row; TypeError or ValueError if one is not."""
    for target in targets:
        if not target.is_cpu:
            raise TypeError(f"a target is {_kind(target)} instead of on cpu")
        if target.dim() == 0 or not target.is_contiguous():
            raise ValueError(f"a target of {list(target.shape)} does not lie row after row")


def check_source(source: Tensor, dtype: torch.dtype, n: int, elements: int) -> None:
    """A source must hold n rows of so many elements; TypeError or ValueError if it does not."""
    if source.dtype is not dtype or not source.is_cpu:
        raise TypeError(f"a source is {_kind(source)} instead of {dtype} on cpu")
    if source.numel() != n * elements:
        raise ValueError(f"a source of {list(source.shape)} is not {n} rows of {elements}")


def check_weights(weights: Weights, cell: str, gates: int) -> None:
    """Matrices and biases must belong to one layer of this cell; ValueError if they do not."""
    if weights.ih.dim() != 2 or weights.hh.dim() != 2:
        raise ValueError("weights are matrices")
    rows, recurrent = len(weights.ih), weights.hh.shape[1]
    wanted = {
        "ih": [rows // gates * gates, weights.ih.shape[1]],
        "hh": [rows, rows // gates if cell == "gru" else recurrent],
        "bias_ih": [rows],
        "bias_hh": [rows],
    }
    for name, shape in wanted.items():
        tensor = getattr(weights, name)
        if tensor is not None and list(tensor.shape) != shape:
            raise ValueError(f"{name} of {cell} is {list(tensor.shape)} instead of {shape}")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} on {tensor.device}"
