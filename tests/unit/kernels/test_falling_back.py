"""Whatever keeps the native library away, `kernel=auto` serves, and asks the compiler only once."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from carousel_models import kernels
from carousel_models.errors import KernelError
from carousel_models.kernels import compiling, library

CPU = torch.device("cpu")

Compiler = Callable[[str], None]


@pytest.fixture(autouse=True)
def nothing_found_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has not looked for a library, on a machine that has none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "SHIPPED", tmp_path / "nothing")
    monkeypatch.setattr(library, "level", lambda: "avx2")
    library._first_found.cache_clear()
    yield
    library._first_found.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Puts a shell script in the compiler's place."""

    def be(script: str) -> None:
        file = tmp_path / "c++"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr("shutil.which", lambda _name: str(file))

    return be


def raising(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_args: Any, **_named: Any) -> Any:
        raise error

    return raise_it


@pytest.mark.parametrize(
    "error",
    [
        subprocess.TimeoutExpired("c++", 120),
        PermissionError(13, "Permission denied"),
        OSError(28, "No space left on device"),
        UnicodeDecodeError("ascii", b"\xe2", 0, 1, "ordinal not in range"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_compiler_that_cannot_be_run(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    compiler("exit 0")
    monkeypatch.setattr(subprocess, "run", raising(error))
    assert kernels.choose("auto", CPU).name == "reference"
    with pytest.raises(KernelError, match="there is no native library here"):
        kernels.choose("cpu", CPU)


def test_a_compiler_that_makes_nothing(compiler: Compiler) -> None:
    compiler("exit 0")
    assert kernels.choose("auto", CPU).name == "reference"


def test_a_compiler_that_answers_in_another_alphabet(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(r"printf '\377\376 nicht lesbar' >&2; exit 1")
    assert kernels.choose("auto", CPU).name == "reference"
    with pytest.raises(KernelError, match="nicht lesbar"):
        compiling.compile_into(tmp_path, "avx2")


def test_a_machine_without_any_folder_to_write(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler("exit 0")
    monkeypatch.setattr(compiling, "_cache", lambda: None)
    monkeypatch.setattr(
        tempfile, "TemporaryDirectory", raising(FileNotFoundError(2, "no usable folder"))
    )
    assert kernels.choose("auto", CPU).name == "reference"


def test_sources_that_are_missing(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "SOURCES", tmp_path / "gone")
    assert kernels.choose("auto", CPU).name == "reference"


def test_a_failure_is_remembered(compiler: Compiler, tmp_path: Path) -> None:
    log = tmp_path / "log"
    compiler(f"echo run >> {log}; exit 1")
    for _ in range(3):
        assert kernels.choose("auto", CPU).name == "reference"
        with pytest.raises(KernelError, match="fails"):
            kernels.choose("cpu", CPU)
    assert log.read_text().splitlines() == ["run", "run"]  # with OpenMP, and without
