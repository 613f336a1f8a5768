"""The program of the C++ echo: what it takes to compile it, and where it is kept."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import google.rpc.status_pb2

SOURCE = Path(__file__).parent / "echo.cpp"
_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / "build" / "native"

_OUR_PROTOS = _ROOT / "protos"
_GOOGLE_PROTOS = Path(google.rpc.status_pb2.__file__).parents[2]
PROTOS = (
    "carousel_protos/v1/carousel.proto",
    "carousel_protos/triton/inference.proto",
    "google/rpc/status.proto",
)

PROGRAMS = {"g++": "g++", "protoc": "protobuf-compiler", "pkg-config": "pkg-config"}
"""What is run, and Debian's package that has it."""

LIBRARIES = {"grpc++": "libgrpc++-dev", "protobuf": "libprotobuf-dev"}
"""What is linked, by its name for pkg-config, and Debian's package that has it."""

_FLAGS = ("-std=c++17", "-O2")
_MOST_S = 600
_KEPT_OUTPUT = 300


class NativeEchoError(RuntimeError):
    """There is no C++ echo here; the message says why, and what mends it."""


def missing() -> str:
    """Why the echo cannot be compiled here, and what mends it; empty if it can."""
    lacking = {name: package for name, package in PROGRAMS.items() if shutil.which(name) is None}
    # Without pkg-config nobody knows about libraries: they are named too, for apt-get leaves what is there.
    lacking |= {
        name: package
        for name, package in LIBRARIES.items()
        if "pkg-config" in lacking or not _has_library(name)
    }
    if not lacking:
        return ""
    packages = " ".join(lacking.values())
    return f"{', '.join(lacking)} not found: apt-get install {packages}"


def program() -> Path:
    """The compiled echo; the first time takes half a minute.

    Raises:
        NativeEchoError: something is missing, or the compiler fails.
    """
    if reason := missing():
        raise NativeEchoError(reason)
    target = compiled()
    if not target.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=_CACHE) as folder:
            _compile(Path(folder), Path(folder) / target.name)
            (Path(folder) / target.name).replace(target)
    return target


def compiled() -> Path:
    """Where the program of these sources is, or will be."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in (SOURCE, *(_OUR_PROTOS / name for name in PROTOS[:2])):
        digest.update(source.read_bytes())
    return _CACHE / f"echo-{digest.hexdigest()[:12]}"


def _has_library(name: str) -> bool:
    return subprocess.run(["pkg-config", "--exists", name], check=False).returncode == 0


def _compile(folder: Path, output: Path) -> None:
    """Messages by protoc into `folder`, then all of it into `output`."""
    places = [f"--proto_path={place}" for place in (_OUR_PROTOS, _GOOGLE_PROTOS)]
    _run("protoc", *places, f"--cpp_out={folder}", *PROTOS)
    messages = [str((folder / name).with_suffix(".pb.cc")) for name in PROTOS]
    flags = shlex.split(_run("pkg-config", "--cflags", "--libs", *LIBRARIES))
    _run("g++", *_FLAGS, f"-I{folder}", str(SOURCE), *messages, "-o", str(output), *flags)


def _run(*command: str) -> str:
    """Runs a tool; returns what it printed."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=_MOST_S,
        env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    if done.returncode:
        raise NativeEchoError(f"{command[0]} fails: {done.stderr.strip()[:_KEPT_OUTPUT]}")
    return done.stdout
