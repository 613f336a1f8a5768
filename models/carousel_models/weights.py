"""Reads tensors after checking them, and computes their fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import PackageError
from .spec import Architecture
from .tensors import TensorInfo

_CPU = torch.device("cpu")
_NAMES = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "BOOL": "bool",
    "U8": "uint8",
    "F64": "float64",
    "C64": "complex64",
}


def read_tensors(
    path: Path, expected: Mapping[str, TensorInfo], device: torch.device
) -> dict[str, Tensor]:
    """Reads exactly the expected tensors, after checking names, shapes and types.

    Raises:
        PackageError: the file is damaged, or has other tensors.
    """
    with _opened(path, device) as file:
        found = {name: _info(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 - not a dict
        _compare(path, found, expected)
        return {name: file.get_tensor(name) for name in sorted(expected)}


def stored_length(path: Path, name: str) -> int:
    """First dimension of a stored tensor. 0 if there is no such tensor.

    Raises:
        PackageError: the file is damaged.
    """
    with _opened(path) as file:
        shape = file.get_slice(name).get_shape() if name in file.keys() else []  # noqa: SIM118
    return int(shape[0]) if shape else 0


def check_finite(
    path: Path, tensors: Mapping[str, Tensor], may_be_infinite: tuple[str, ...]
) -> None:
    """Refuses weights that are not finite.

    Tensors whose names begin with one of `may_be_infinite` may hold infinities, as masks do, but no NaN.

    Raises:
        PackageError: a tensor has a NaN or an infinity. It names the first one.
    """
    for name, tensor in tensors.items():
        masks = name.startswith(may_be_infinite)
        bad = tensor.isnan() if masks else ~tensor.isfinite()
        if bad.any():
            what = "NaN" if tensor.isnan().any() else "an infinity"
            raise PackageError(
                f"{path}: tensor {name} holds {what}, so outputs would be NaN; save the model again "
                "with finite weights, from a checkpoint before the training diverged"
            )


def fingerprint(architecture: Architecture, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the architecture as canonical JSON and every tensor's name, type, shape and bytes."""
    fields = architecture.model_dump(mode="json", by_alias=True)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def info_of(tensor: Tensor) -> TensorInfo:
    """Shape and type of a tensor in memory."""
    return TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


@contextmanager
def _opened(path: Path, device: torch.device = _CPU) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file
    except SafetensorError as error:
        raise PackageError(
            f"{path}: not a safetensors file: {error}; copy the package again"
        ) from error


def _info(part: object) -> TensorInfo:
    dtype = part.get_dtype()  # type: ignore[attr-defined]
    return TensorInfo(tuple(part.get_shape()), _NAMES.get(dtype, dtype))  # type: ignore[attr-defined]


def _compare(
    path: Path, found: Mapping[str, TensorInfo], expected: Mapping[str, TensorInfo]
) -> None:
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [
        f"{name} is not part of the architecture" for name in sorted(found.keys() - expected.keys())
    ]
    problems += [
        f"{name} is {found[name].dtype}{list(found[name].shape)} instead of "
        f"{expected[name].dtype}{list(expected[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if problems:
        listed = "; ".join(problems[:5]) + ("; …" if len(problems) > 5 else "")
        raise PackageError(
            f"{path}: {listed}; the weights belong to another manifest, save the model again"
        )
