"""`python -m tests.cluster`: real processes in a network of their own, under faults, each output judged.

Exit codes: 0 all holds, 1 it does not, 3 this machine has no way to run it.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace

from . import sandbox
from .cluster import Form
from .faults import BY_NAME
from .run import FORMS, RunError, run

SKIPPED = 3


def main(arguments: Sequence[str]) -> int:
    given = _parsed(arguments)
    if sandbox.is_inside():
        sandbox.enter()
        try:
            report = run(_form(given), given.seed)
        except RunError as error:
            print(f"cluster: {error}\nagain: make cluster ARGS='--seed {given.seed}'", flush=True)
            return 1
        print(report.text(), flush=True)
        if given.write:
            report.write()
        return 0
    reason = sandbox.why_not()
    if reason:
        print(f"make cluster: SKIPPED: {reason}")
        return SKIPPED
    return sandbox.run("tests.cluster", [*arguments, "--seed", str(given.seed)])


def _form(given: argparse.Namespace) -> Form:
    form = FORMS[given.form]
    if given.only:
        form = replace(form, faults=tuple(given.only), steps=0)
    return form


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make cluster")
    parser.add_argument("--form", choices=FORMS, default="long")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument(
        "--only", action="append", choices=BY_NAME, metavar="FAULT", help="once; may be repeated"
    )
    parser.add_argument("--write", action="store_true", help="write bench/results/cluster.*")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
