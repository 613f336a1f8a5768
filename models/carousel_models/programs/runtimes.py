"""The table of runtimes: which files each one runs, and what loads it. No torch at import."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from carousel_models.errors import PackageError

from .interface import Program

if TYPE_CHECKING:
    import torch

MAX_PROGRAM_BYTES = 2 << 30
"""Most bytes of a program's file. Protocol buffers, and so ONNX files, have no more."""


class Runtime(NamedTuple):
    """Runs programs of one format.

    Attributes:
        module: of this package. Its function `load(data, device, where)` gives a Program of a file's bytes.
        ends: the ends of the names of such files.
        numbered: True if the format does not name its outputs, so they are counted from 0.
    """

    module: str
    ends: tuple[str, ...]
    numbered: bool

    def load(self) -> Callable[[bytes, torch.device, str], Program]:
        """Its function `load`."""
        module = importlib.import_module(f".{self.module}", __package__)
        return cast("Callable[[bytes, torch.device, str], Program]", module.load)


RUNTIMES: dict[str, Runtime] = {
    "onnx": Runtime("onnx_program", (".onnx",), numbered=False),
    "torchscript": Runtime("torchscript_program", (".ts", ".jit", ".pt"), numbered=True),
    "pt2": Runtime("pt2_program", (".pt2",), numbered=True),
}
"""One entry for each name in `program_spec.RuntimeName`."""


def runtime_of(file: str) -> str:
    """The name of the runtime for a file's name.

    Raises:
        PackageError: no runtime runs such files.
    """
    for name, runtime in RUNTIMES.items():
        if file.lower().endswith(runtime.ends):
            return name
    ends = ", ".join(end for runtime in RUNTIMES.values() for end in runtime.ends)
    raise PackageError(f"no runtime runs {file}; give a step graph in a file that ends in {ends}")


def open_program(runtime: str, data: bytes, device: torch.device, where: Path | str) -> Program:
    """Loads a program from the bytes of its file.

    Args:
        runtime: a name in RUNTIMES.
        data: the whole file.
        device: where it is to run, if its runtime can.
        where: the file, for errors.

    Raises:
        PackageError: the file is damaged, holds code, or its runtime is not installed.
    """
    if len(data) > MAX_PROGRAM_BYTES:
        raise PackageError(
            f"{where} has {len(data):,} bytes, more than the limit of {MAX_PROGRAM_BYTES:,}; serve a smaller "
            "model, or one with weights of 16 bits"
        )
    return RUNTIMES[runtime].load()(data, device, str(where))
