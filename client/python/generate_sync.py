"""Writes modules of the blocking client, carousel/_sync, from those of the asyncio client, carousel/_async.

Run it after a change of one of MODULES:  python client/python/generate_sync.py
What the clients do each in their own way has the same names in modules of both folders that are written by
hand: pending.py, primitives.py, refresher.py, services.py, source.py, stream.py and opening.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parent / "carousel"
MODULES = ("batch", "calls", "client", "generation", "replicas", "session")

PHRASES = (
    ("asyncio client", "blocking client"),
    ("It belongs to the event loop that uses it first. A call in another loop raises EventLoopError.",
     "It is safe for threads."),
    ("Does nothing in a forked child. Raises EventLoopError outside the client's loop.",
     "Does nothing in a forked child."),
    ("May be used by several\n    tasks", "May be used by\n    several threads"),
    ("An asynchronous iterator", "An iterator"),
    ("each [*row]; from an asynchronous iterable (a live source) or a plain one.",
     "each [*row]; taken one by one, on the thread that iterates."),
    ("From an asynchronous iterable (a live source) or a plain one.",
     "They are taken one by one, on the thread that iterates."),
    ("outputs have been taken; at most", "outputs are asked for; at most"),
    ("the\n                window.\n",
     "the\n                window. 1 waits for each output before the next row is taken.\n"),
    ("yields each output as soon as it is there, in order.", "yields their outputs in order."),
    ("AsyncIterable[Any] | Iterable[Any]", "Iterable[Any]"),
    # The blocking client opens a session at once.
    ("from .opening import Opening, opening\n", "from .opening import opening\n"),
    ("    from .opening import Opening\n", ""),
    ("-> Opening:", "-> Session:"),
)  # fmt: skip
"""What differs in words and types. Each is replaced before the patterns, and must stand somewhere."""

PATTERNS = (
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b(?:Awaitable|Coroutine\[Any, Any,)\[?\s*(\w+)\]", r"\1"),
    (r"\b__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\banext\(", "next("),
    (r"\baclose\b", "close"),
    (r"\bHomeLoop\b", "HomeProcess"),
    (r"\bfor (\w+) in (\w+):\n +yield \1\n", "yield from \\2\n"),
    (r"\bAsync(?=[A-Z]\w)", ""),
)

NOTE = "# Made by generate_sync.py from _async/{name}.py: do not edit.\n"


def blocking(source: str) -> str:
    """A module of the asyncio client as one of the blocking client, not yet formatted."""
    for phrase, other in PHRASES:
        source = source.replace(phrase, other)
    for pattern, other in PATTERNS:
        source = re.sub(pattern, other, source)
    return source


def formatted(source: str, path: Path) -> str:
    """As ruff formats it, without the imports that only the asyncio client needs."""
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--quiet", "--fix", "--select", "F401,I"], ["format"]):
        done = subprocess.run(
            [*ruff, *command, "--config", "pyproject.toml", "--stdin-filename", path, "-"],
            cwd=ROOT,
            input=source,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if not done.stdout:
            raise RuntimeError(f"ruff cannot read {path.name}: {done.stderr}")
        source = done.stdout
    return source


def render(name: str) -> str:
    """One module of the blocking client."""
    source = (PACKAGE / "_async" / f"{name}.py").read_text(encoding="utf-8")
    return formatted(NOTE.format(name=name) + blocking(source), PACKAGE / "_sync" / f"{name}.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the modules, or compares them; 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args(argv).check
    stale = []
    for name in MODULES:
        path = PACKAGE / "_sync" / f"{name}.py"
        text = render(name)
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            stale.append(f"_sync/{name}.py")
    if stale:
        sys.stderr.write(
            f"out of date: {', '.join(stale)}; run python client/python/generate_sync.py\n"
        )
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
