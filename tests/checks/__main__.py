"""`python -m tests.checks`: all checks of this folder; exit code 1 if one fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .sizes import constructors, files, functions
from .sources import Violation
from .structure import layers, plain_prose, share_of_tests
from .writers import single_writer

CHECKS: tuple[Callable[[Path], Iterable[Violation]], ...] = (
    files,
    functions,
    constructors,
    single_writer,
    layers,
    share_of_tests,
    plain_prose,
)

KNOWN = Path(__file__).with_name("known.txt")
"""Violations that are known, one a line. The list only shrinks: a line without a violation is an error."""


def check(root: Path, known: Path = KNOWN) -> list[str]:
    """What is wrong in a tree, one text each: violations that are not known, and lines of no use."""
    allowed = set(_lines(known))
    found = [violation for run in CHECKS for violation in run(root)]
    wrong = [str(violation) for violation in found if violation.key not in allowed]
    wrong += [
        f"{known.name}: {key!r} is no violation any more\n    fix: delete that line"
        for key in sorted(allowed - {violation.key for violation in found})
    ]
    return wrong


def _lines(known: Path) -> Iterator[str]:
    for line in known.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def main() -> int:
    """Checks the tree that this file lies in."""
    wrong = check(Path(__file__).parents[2])
    for text in wrong:
        print(text)
    print(f"checks: {len(wrong)} violations" if wrong else "checks: all hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
