"""Where the native library comes from, and what happens where it cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from carousel_models import errors, kernels
from carousel_models.errors import KernelError
from carousel_models.kernels import compiling, library

CPU = torch.device("cpu")

has_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler here"
)


def cpuinfo(folder: Path, flags: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nflags\t\t: fpu\n")
    return file


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("avx2 fma", "avx2"),
        ("avx2 fma avx512f", "avx2"),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl", "avx512"),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl avx512_bf16", "avx512-bf16"),
    ],
)
def test_the_kind_of_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, level: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert compiling.level(cpuinfo(tmp_path, flags)) == level


@pytest.mark.parametrize(
    ("machine", "flags"), [("x86_64", "sse2 avx"), ("aarch64", "avx2 fma"), ("x86_64", None)]
)
def test_other_processors_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, flags: str | None
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    file = tmp_path / "none" if flags is None else cpuinfo(tmp_path, flags)
    with pytest.raises(KernelError, match="AVX2"):
        compiling.level(file)


@has_compiler
def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling, "SHIPPED", tmp_path / "nothing")
    first = next(compiling.library_files("avx2"))
    assert first.parent == tmp_path / "carousel"
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert next(compiling.library_files("avx2")) == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]


@has_compiler
@pytest.mark.parametrize("level", compiling.LEVELS)
def test_every_kind_compiles(tmp_path: Path, level: str) -> None:
    """Also the kinds that this machine cannot run."""
    assert compiling.compile_into(tmp_path, level).stat().st_size > 10_000


def test_a_shipped_library_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "SHIPPED", tmp_path)
    file = tmp_path / f"carousel-avx2-{compiling._digest('avx2')}.so"
    file.touch()
    assert next(compiling.library_files("avx2")) == file


@has_compiler
def test_where_nothing_can_be_kept_it_is_removed_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "carousel").write_text("a file is in its place")
    program = (
        "from carousel_models.kernels import compiling;"
        "file = next(compiling.library_files('avx2')); assert file.exists(); print(file)"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["carousel"]


def test_other_flags_are_another_file() -> None:
    assert len({compiling._digest(level) for level in compiling.LEVELS}) == len(compiling.LEVELS)


def test_a_folder_that_others_can_write_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "carousel"
    assert compiling._cache() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert compiling._cache() is None
    folder.rmdir()
    folder.write_text("a file is in its place")
    assert compiling._cache() is None


def test_without_a_compiler_the_reference_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling, "SHIPPED", tmp_path / "nothing")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(kernels, "load_library", library.find_library)
    with caplog.at_level("INFO"):
        assert kernels.choose("auto", CPU).name == "reference"
    assert "no C++ compiler" in caplog.text or "AVX2" in caplog.text
    with pytest.raises(KernelError, match=r"kernel=reference|AVX2"):
        kernels.choose("cpu", CPU)


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho the sources are unreadable >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(KernelError, match="sources are unreadable"):
        compiling.compile_into(tmp_path, "avx2")


def test_a_file_that_is_no_library_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.so").write_text("not a library")
    monkeypatch.setattr(library, "level", lambda: "avx2")
    monkeypatch.setattr(library, "library_files", lambda _level: iter([tmp_path / "bad.so"]))
    with pytest.raises(KernelError, match="cannot be loaded"):
        library.find_library()


@has_compiler
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("(1.0f - z) * candidate", "(1.1f - z) * candidate", r"gru in torch\.float32"),
        ("x == x ?", "x != 7.0f ?", r"sigmoid in torch\.float32"),  # NaN becomes a number
        (
            "x > 88.0f ?",
            "x > 1e38f * 10.0f ?",
            r"sigmoid in torch\.float32",
        ),  # infinity becomes NaN
    ],
)
def test_a_library_that_computes_wrongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, said: str
) -> None:
    try:
        level = compiling.level()
    except KernelError as error:
        pytest.skip(str(error))
    sources = tmp_path / "sources"
    sources.mkdir()
    for name in ("vectors.h", "product.h", "layer.cpp"):
        text = (compiling.SOURCES / name).read_text()
        (sources / name).write_text(text.replace(right, wrong))
    monkeypatch.setattr(compiling, "SOURCES", sources)
    file = compiling.compile_into(tmp_path, level)
    monkeypatch.setattr(library, "library_files", lambda _level: iter([file]))
    with pytest.raises(KernelError, match=f"{said} wrongly"):
        library.find_library()


def test_other_devices_keep_the_reference() -> None:
    cuda = torch.device("cuda")
    assert kernels.choose("auto", cuda).name == "reference"
    assert kernels.choose("reference", cuda).name == "reference"
    with pytest.raises(KernelError, match="does not run on cuda"):
        kernels.choose("cpu", cuda)


def test_a_kernel_that_is_missing_is_not_a_bad_package() -> None:
    assert not issubclass(errors.KernelError, errors.PackageError)
