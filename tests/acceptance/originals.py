"""The original models and libraries. Nothing of them is installed.

A test reads a model's file by its path, or imports a library with the cache on `sys.path`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.wheels import CACHE, unpacked

PINS = Path(__file__).with_name("originals.txt")


def originals() -> Path:
    """The folder into which all wheels are unpacked, side by side.

    The calling test is skipped by name if the package index cannot be reached.
    """
    return unpacked(PINS, Path(os.environ.get("CAROUSEL_ORIGINALS", CACHE / "originals")))


def original(path: str) -> Path:
    """One file of the originals, such as "g2p_en/checkpoint20.npz"."""
    file = originals() / path
    assert file.exists(), f"no pinned wheel has {path}"
    return file


def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the calling test import the libraries among the originals."""
    monkeypatch.syspath_prepend(str(originals()))
