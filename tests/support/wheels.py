"""Wheels of the package index, pinned by hash, unpacked side by side into a cache. None is installed."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[2] / ".cache"

_NO_INDEX = (
    "Could not find a version",
    "Connection",
    "connection",
    "Temporary failure in name resolution",
)
"""pip's words where the package index cannot be reached. Anything else, such as a wrong hash, is an error."""


@cache
def unpacked(pins: Path, home: Path) -> Path:
    """The folder below `home` with all wheels of the requirements file `pins`.

    The calling test is skipped by name if the package index cannot be reached.
    """
    home.mkdir(parents=True, exist_ok=True)
    folder = home / hashlib.sha256(pins.read_bytes()).hexdigest()[:16]
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes start at once
        if not folder.exists():
            _fetch(pins, folder)
    return folder


def _fetch(pins: Path, folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    wheels = partial / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "-r", str(pins), "-d", str(wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and any(words in done.stderr for words in _NO_INDEX):
        pytest.skip(
            f"the package index cannot be reached, so the wheels of {pins.name} are not here"
        )
    assert done.returncode == 0, done.stderr
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
    shutil.rmtree(wheels)
    partial.rename(folder)
