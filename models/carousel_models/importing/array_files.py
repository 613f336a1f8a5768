"""Arrays of `.npz` and `.safetensors` files by their names. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from carousel_models.damage import UNREADABLE, is_of_the_system
from carousel_models.errors import PackageError

from .ops import Array

MOST_BYTES = 16 << 30

_OF_HEADERS = (SafetensorError, OverflowError, MemoryError, TokenError)
_DAMAGED: tuple[type[Exception], ...] = (*UNREADABLE, *_OF_HEADERS)


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """An open file of arrays: their names, and a function that reads one of them."""

    names: Sequence[str]
    read: Callable[[str], Array]


@contextmanager
def opened(path: Path) -> Iterator[ArrayFile]:
    """Opens a file of arrays by the end of its name.

    Raises:
        PackageError: it is damaged, too large, or holds Python objects.
    """
    opens = _opened_safetensors if path.name.lower().endswith(".safetensors") else _opened_npz
    try:
        with opens(path) as file:
            yield file
    except _DAMAGED as error:
        if is_of_the_system(error):
            raise
        raise PackageError(
            f"{path} is no whole file of arrays: {error}; save the arrays of numbers again"
        ) from error


@contextmanager
def _opened_npz(path: Path) -> Iterator[ArrayFile]:
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MOST_BYTES:
        raise PackageError(f"{path} has {size:,} bytes, of at most {MOST_BYTES:,}; split it")
    with np.load(path, allow_pickle=False) as file:
        yield ArrayFile(list(file.files), lambda name: _numbers(name, file[name]))


@contextmanager
def _opened_safetensors(path: Path) -> Iterator[ArrayFile]:
    with safe_open(path, framework="pt") as file:
        yield ArrayFile(list(file.keys()), lambda name: _from_torch(name, file.get_tensor(name)))


def _from_torch(name: str, tensor: Any) -> Array:
    """NumPy has no bfloat16."""
    return _numbers(name, (tensor.float() if tensor.is_floating_point() else tensor).numpy())


def _numbers(name: str, array: Array | bytes) -> Array:
    if isinstance(array, bytes):  # NumPy gives a record that is no array as it is
        raise PackageError(f"the record {name!r} is no array; save the arrays of numbers again")
    if array.dtype.kind not in "fiu":
        raise PackageError(f"array {name!r} is {array.dtype}, and weights are real; convert it")
    return array if array.dtype == np.float64 else array.astype(np.float32)
