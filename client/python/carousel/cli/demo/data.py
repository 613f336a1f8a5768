"""What the demo's clients send: real rows and real files, found on every machine."""

from __future__ import annotations

import sysconfig
from importlib.resources import files
from pathlib import Path

PROMPTS = (
    "def ",
    "class ",
    "import ",
    "    for ",
    "    if ",
    "def __init__(self",
    "    return ",
    "try:\n",
)
LARGEST_FILE_BYTES = 16_384
FILES = 40


def sunspot_rows() -> list[list[float]]:
    """Mean sunspot number of each year from 1700 to 2008, one row a year (NOAA; public domain)."""
    text = files(__package__).joinpath("sunspots.csv").read_text(encoding="utf-8")
    return [[float(line.split(",")[1])] for line in text.splitlines()[1:]]


def python_files(number: int) -> list[bytes]:
    """Some files of Python's standard library; another order for each client.

    Raises:
        FileNotFoundError: this Python carries no sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    small = sorted(p for p in library.glob("*.py") if 0 < p.stat().st_size <= LARGEST_FILE_BYTES)
    if not small:
        raise FileNotFoundError(f"no Python source files in {library}")
    start = number * 7 % len(small)
    return [path.read_bytes() for path in (small[start:] + small[:start])[:FILES]]
