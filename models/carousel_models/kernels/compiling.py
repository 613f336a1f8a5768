"""The native library's file: shipped, made before, or compiled now if this machine has a compiler."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carousel_models.errors import KernelError

SOURCES = Path(__file__).parent
SHIPPED = SOURCES / "compiled"
"""Libraries that were made when the package was installed, by `python -m carousel_models.kernels`."""

_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared"),
    # Sums are fused multiply-adds wherever they stand in a batch; NaN and infinity keep their meaning.
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
_AVX2 = ("avx2", "fma")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl")
LEVELS = {
    "avx512-bf16": (*_AVX512, "avx512_bf16"),
    "avx512": _AVX512,
    "avx2": _AVX2,
}
"""Kinds of processor, best first, and the instructions that each must have."""


@contextmanager
def _kernel_errors() -> Iterator[None]:
    """What a system may refuse (space, rights, time) becomes the one error that has a way out."""
    try:
        yield
    except (OSError, subprocess.SubprocessError, UnicodeError) as error:
        raise KernelError(f"there is no native library here: {error}") from error


@_kernel_errors()
def level(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The best kind that this processor is.

    Raises:
        KernelError: it is none of them.
    """
    if platform.machine() in ("x86_64", "AMD64") and cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        there = set(next((line for line in lines if line.startswith("flags")), "").split())
        for name, needed in LEVELS.items():
            if there.issuperset(needed):
                return name
    raise KernelError(
        "there is no native code for this processor; it needs x86-64 with AVX2, on Linux"
    )


@_kernel_errors()
def library_file(name: str) -> Path:
    """The library for a kind of processor.

    Raises:
        KernelError: it has not been made, and cannot be made here.
    """
    file = f"carousel-{name}-{_digest(name)}.so"
    for folder in (SHIPPED, _cache()):
        if folder is not None and (folder / file).exists():
            return folder / file
    cache = _cache()
    if cache is None:
        # Where nothing can be kept it lies in a new folder, for the life of this process.
        temporary = tempfile.TemporaryDirectory(prefix="carousel-kernel-")
        atexit.register(temporary.cleanup)
        cache = Path(temporary.name)
    return compile_into(cache, name)


@_kernel_errors()
def compile_into(folder: Path, name: str) -> Path:
    """Compiles the library for a kind of processor.

    Raises:
        KernelError: there is no C++ compiler, or it fails, or its result cannot be kept.
    """
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise KernelError("there is no C++ compiler; install one, or serve with kernel=reference")
    target = folder / f"carousel-{name}-{_digest(name)}.so"
    unfinished = target.with_suffix(f".{os.getpid()}")
    command = [
        compiler,
        *_FLAGS,
        *_options(name),
        "-o",
        str(unfinished),
        str(SOURCES / "layer.cpp"),
    ]
    # A compiler without OpenMP makes a library that keeps to one thread.
    for extra in (["-fopenmp"], []):
        done = subprocess.run([*command, *extra], check=False, capture_output=True, timeout=120)
        if done.returncode == 0:
            unfinished.replace(target)
            return target
    said = done.stderr.decode(errors="replace").strip()
    raise KernelError(f"{compiler} fails: {said[:300]}")


def _options(name: str) -> tuple[str, ...]:
    return tuple(f"-m{feature.replace('_', '')}" for feature in LEVELS[name])


def _digest(name: str) -> str:
    """Of all that the library is made of, so that a newer one never meets an older file."""
    digest = hashlib.sha256(" ".join((*_FLAGS, *_options(name))).encode())
    for source in ("vectors.h", "product.h", "layer.cpp"):
        digest.update((SOURCES / source).read_bytes())
    return digest.hexdigest()[:12]


def _cache() -> Path | None:
    """A folder of this user's own for compiled libraries; None if there cannot be one."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "carousel"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):
        return None
    # Code that another user could have put there is not loaded.
    shared = found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return None if shared or not os.access(folder, os.W_OK) else folder
