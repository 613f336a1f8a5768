"""A tree that all checks accept, for tests that add one violation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TABLE = """
class SessionTable:
    def __init__(self, slots):
        self.slots = slots
        self.applied = zeros(slots)
        self.ack: Int64s = zeros(slots)
        self.ids = [""] * slots
        self._former = {}

    def open(self, row):
        self.applied[row] = 0
"""
CONTRACT = """
[importlinter]
root_packages =
    carousel_server

[importlinter:contract:rooms]
name = Rooms
type = layers
layers =
    carousel_server.main
    carousel_server.engine | carousel_server.rows
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of the tree; the tree is whole before it."""

    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    write(".importlinter", CONTRACT)
    write("server/carousel_server/__init__.py", "")
    write("server/carousel_server/main.py", "")
    write("server/carousel_server/engine/__init__.py", "")
    write("server/carousel_server/rows/__init__.py", "")
    write("server/carousel_server/rows/table.py", TABLE)
    write("tests/test_all.py", "assert True\n" * 2000)
    for page in ("README.md", "ARCHITECTURE.md", "docs/guides/a.md"):
        write(page, "It is short.\n")
    return write
