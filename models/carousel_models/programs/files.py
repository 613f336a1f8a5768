"""The files of a package's programs: read, compared with their hashes, and loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from carousel_models.errors import PackageError
from carousel_models.package import package_file
from carousel_models.program_spec import ProgramPart
from carousel_models.stack_parts import StackPart

from .interface import Program
from .runtimes import MAX_PROGRAM_BYTES, open_program


def digest(data: bytes) -> str:
    """The hash of a program's file, in lower-case hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def read_programs(
    package: Path, parts: Iterable[StackPart], device: torch.device
) -> dict[str, Program]:
    """Loads the programs of a package, by the names of their parts.

    Raises:
        PackageError: a file is missing, changed, damaged or too large, or its runtime is not installed.
    """
    found = {}
    for part in parts:
        if isinstance(part, ProgramPart):
            path = package_file(package, part.file, MAX_PROGRAM_BYTES)
            found[part.name] = _open(part, path.read_bytes(), device, str(path))
    return found


def open_programs(
    parts: Iterable[StackPart], files: Mapping[str, bytes], device: torch.device
) -> dict[str, Program]:
    """Loads programs from the bytes of their files, by the names of their parts.

    Raises:
        PackageError: as `read_programs`.
    """
    found = {}
    for part in parts:
        if isinstance(part, ProgramPart):
            if part.file not in files:
                raise PackageError(f"the file {part.file!r} of part {part.name!r} was not given")
            found[part.name] = _open(part, files[part.file], device, part.file)
    return found


def _open(part: ProgramPart, data: bytes, device: torch.device, where: str) -> Program:
    found = digest(data)
    if found != part.sha256:
        raise PackageError(
            f"{where} has the hash {found[:12]}…, but the manifest says {part.sha256[:12]}…; the file was "
            "changed or damaged: copy the package again, or import the model again"
        )
    return open_program(part.runtime, data, device, where)
