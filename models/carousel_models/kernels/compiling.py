"""Finds the native library's file: shipped, compiled before, or compiled now."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carousel_models.errors import KernelError

SOURCES = Path(__file__).parent
SHIPPED = SOURCES / "compiled"
"""Folder of the libraries that `python -m carousel_models.kernels` has compiled."""

_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared"),
    # Sums are fused multiply-adds at every place of a batch. NaN and infinity keep their meaning.
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
    """Turns errors of the system (space, rights, time) into a KernelError."""
    try:
        yield
    except (OSError, subprocess.SubprocessError, UnicodeError) as error:
        raise KernelError(f"there is no native library here: {error}") from error


@_kernel_errors()
def level(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The best kind for this processor.

    Raises:
        KernelError: it is of no known kind.
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


def library_files(name: str) -> Iterator[Path]:
    """Files of the library for a kind of processor, to be tried in order. The last one is compiled.

    Raises:
        KernelError: the next file cannot be made here.
    """
    with _kernel_errors():
        file = f"carousel-{name}-{_digest(name)}.so"
        cache = _cache()
        for folder in (SHIPPED, cache):
            if folder is not None and (folder / file).exists():
                yield folder / file
        if cache is None:
            # Without a cache folder it is in a new folder, for the life of this process.
            temporary = tempfile.TemporaryDirectory(prefix="carousel-kernel-")
            atexit.register(temporary.cleanup)
            cache = Path(temporary.name)
        yield compile_into(cache, name)


@_kernel_errors()
def is_prepared(name: str) -> bool:
    """True if the library for a kind of processor is there. Nothing is made."""
    file = f"carousel-{name}-{_digest(name)}.so"
    folders = (SHIPPED, _cache(make=False))
    return any(folder is not None and (folder / file).exists() for folder in folders)


def find_compiler() -> str:
    """The path of a C++ compiler.

    Raises:
        KernelError: there is none.
    """
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise KernelError("there is no C++ compiler; install one, or serve with kernel=reference")
    return compiler


@_kernel_errors()
def compile_into(folder: Path, name: str) -> Path:
    """Compiles the library for a kind of processor.

    Raises:
        KernelError: there is no C++ compiler, it fails, or its result cannot be written.
    """
    compiler = find_compiler()
    target = folder / f"carousel-{name}-{_digest(name)}.so"
    # Others may compile the same now, some of them with this process's number in another
    # container: each does so in a folder of its own, and the last one's whole file stays.
    with tempfile.TemporaryDirectory(
        prefix="unfinished-", dir=folder, ignore_cleanup_errors=True
    ) as own:
        unfinished = Path(own) / target.name
        _compile(compiler, name, unfinished)
        with unfinished.open("rb") as written:
            os.fsync(written)  # or a crash could leave the name without the contents
        unfinished.replace(target)
    return target


def is_whole(file: Path) -> bool:
    """False if the end of a library is missing. Loading it would end this process.

    An ELF file ends with the table of its sections, and its first 64 bytes have the place of the table.
    """
    with file.open("rb") as opened:
        header = opened.read(64)
        there = os.fstat(opened.fileno()).st_size
    if len(header) < 64 or not header.startswith(b"\x7fELF"):
        return False
    (table,) = struct.unpack_from("<Q", header, 40)
    entry, entries = struct.unpack_from("<HH", header, 58)
    return bool(there >= table + entry * entries)


def _compile(compiler: str, name: str, output: Path) -> None:
    source = SOURCES / "layer.cpp"
    command = [compiler, *_FLAGS, *_options(name), "-o", str(output), str(source)]
    # A compiler without OpenMP makes a library with one thread.
    for extra in (["-fopenmp"], []):
        done = subprocess.run([*command, *extra], check=False, capture_output=True, timeout=120)
        if done.returncode == 0:
            return
    said = done.stderr.decode(errors="replace").strip()
    raise KernelError(f"{compiler} fails: {said[:300]}")


def _options(name: str) -> tuple[str, ...]:
    return tuple(f"-m{feature.replace('_', '')}" for feature in LEVELS[name])


def _digest(name: str) -> str:
    """Hash of all sources and options, so that a newer library has another file."""
    digest = hashlib.sha256(" ".join((*_FLAGS, *_options(name))).encode())
    for source in ("vectors.h", "product.h", "layer.cpp"):
        digest.update((SOURCES / source).read_bytes())
    return digest.hexdigest()[:12]


def _cache(*, make: bool = True) -> Path | None:
    """This user's own folder for compiled libraries, or None if it is not there and cannot be made."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "carousel"
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):
        return None
    # Code that another user could have written is not loaded.
    shared = found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return None if shared or not os.access(folder, os.W_OK) else folder
