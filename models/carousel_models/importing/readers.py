"""The table of readers by the endings of files. No torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

from carousel_models.errors import PackageError

from .imported import Imported


class Reader(NamedTuple):
    """Reads files of one kind.

    Attributes:
        module: of this package. Its function `read(path, **options)` gives an Imported.
        needs: modules of other packages that it imports.
        options: names of the options that `read` takes.
        extra: the extra of carousel-serving that brings `needs`.
    """

    module: str
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    extra: str = "import"

    def load(self) -> Callable[..., Imported]:
        """Its function `read`."""
        module = importlib.import_module(f".{self.module}", __package__)
        return cast("Callable[..., Imported]", module.read)


_PROGRAM = ("state", "constant", "context", "shape", "input", "output")

_KERAS = Reader("keras", needs=("h5py",), options=("config", "recurrent_activation", "unpadded"))

STEP_GRAPHS: dict[str, Reader] = {
    ".onnx": Reader("programs", ("torch", "onnxruntime"), (*_PROGRAM, "free_batch"), extra="onnx"),
    ".ts": Reader("programs", ("torch",), _PROGRAM, extra="server"),
    ".jit": Reader("programs", ("torch",), _PROGRAM, extra="server"),
    ".pt": Reader("programs", ("torch",), _PROGRAM, extra="server"),
    ".pt2": Reader("programs", ("torch",), _PROGRAM, extra="server"),
}
"""Readers of files that are programs, also where a file could be built-in layers."""

READERS: dict[str, Reader] = {
    ".keras": _KERAS,
    ".weights.h5": _KERAS,
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    **STEP_GRAPHS,
    ".onnx": STEP_GRAPHS[".onnx"]._replace(module="onnx_chain"),
    ".npz": Reader("mapped", options=("map",)),
    ".safetensors": Reader("mapped", options=("map",)),
}
"""Readers by the end of a file's name, in lower case. Of several ends, the longest counts."""


def reader_of(path: Path, table: Mapping[str, Reader] = READERS) -> tuple[str, Reader]:
    """The end of a file's name, and the reader for it.

    Raises:
        PackageError: no reader reads such files, or a package that it needs is not installed.
    """
    ends = [end for end in table if path.name.lower().endswith(end)]
    if not ends:
        raise PackageError(
            f"{path.name} is of no kind that can be imported; give a file that ends in "
            f"{', '.join(sorted(table))}, or save the model from torch with carousel_models.save"
        )
    end = max(ends, key=len)
    reader = table[end]
    missing = [module for module in reader.needs if find_spec(module) is None]
    if missing:
        raise PackageError(
            f"reading {end} files needs {' and '.join(missing)}, not installed here; "
            f"pip install 'carousel-serving[{reader.extra}]'"
        )
    return end, reader


def taken(
    end: str, options: Mapping[str, Any], table: Mapping[str, Reader] = READERS
) -> dict[str, Any]:
    """The options that were given, all of which the reader of `end` takes.

    Raises:
        PackageError: it does not take one of them.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in table[end].options:
            takers = sorted(end for end, reader in table.items() if name in reader.options)
            fix = f"it is one of {', '.join(takers)} files" if takers else "no reader takes it"
            raise PackageError(
                f"{end} files have no option --{name.replace('_', '-')}; leave it out, {fix}"
            )
    return given
