"""Mutants: the protocol with one rule taken out. A simulation that does not notice is worth nothing.

`make mutants` writes docs/reference/mutants.md. It keeps the seeds of that page, and looks for another one
where a mutant is not caught any more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from carousel_server.process.cores import usable_cores

# Before torch is imported: one thread a worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "mutants.md"
MOST_SEEDS = 20_000
_CELL_CHARS = 120
_OF_MISFITS = ("TypeError", "AttributeError", "NameError")
"""Errors of a mutant that replaces what has changed since. They show nothing about its rule."""

_HEAD = """# Mutants

Each row is Carousel with one rule taken out, run under the [simulation](../../tests/simulation) until a
schedule shows that something is lost, repeated, told too early, or stuck. The number is the seed of one that
does: `make simulate ARGS='--seed 31'` shows what that schedule is like with the true code, which passes them
all. The rules are R1 to R18 of the protocol, and names for what else must hold. Written by `make mutants`;
`make mutants ARGS=--check` compares.

| What is wrong | Rule | Caught by seed | How it shows |
| --- | --- | --- | --- |
"""


class Patches:
    """Replaces parts of the code, and puts them back."""

    def __init__(self) -> None:
        self._saved: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Puts `make(what was there)` in place of an attribute."""
        real = vars(owner)[name] if isinstance(owner, type) else getattr(owner, name)
        self._saved.append((owner, name, real))
        setattr(owner, name, make(real))

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Puts a value in place of an attribute."""
        self.wrap(owner, name, lambda _: value)

    @property
    def changed(self) -> bool:
        """True while anything is replaced."""
        return bool(self._saved)

    def __enter__(self) -> Patches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._saved:
            owner, name, real = self._saved.pop()
            setattr(owner, name, real)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule taken out.

    Attributes:
        does: what the code does instead.
        rule: which rule that breaks.
        patch: how it is made.
    """

    does: str
    rule: str
    patch: Callable[[Patches], None]


@dataclass(frozen=True, slots=True)
class Catch:
    """How a mutant was caught; seed 0: not at all."""

    seed: int
    failure: str


def catch(mutant: Mutant, seeds: Sequence[int]) -> Catch:
    """Runs a mutant through schedules until one shows it."""
    from .schedule import run

    for seed in seeds:
        with Patches() as patches:
            mutant.patch(patches)
            try:
                failures = run(seed).failures
            except Exception as error:  # noqa: BLE001 - whatever a mutant does shows that it is one
                failures = (f"{type(error).__name__}: {error}",)
        if failures:
            break
    else:
        return Catch(0, "")
    misfit = any(name in failure for failure in failures for name in _OF_MISFITS)
    assert not misfit, f"{mutant.does!r} does not fit the code any more: {failures[0]}"
    assert not run(seed).failures, f"the true code fails under seed {seed}: make simulate"
    return Catch(seed, failures[0].partition(": ")[2] or failures[0])


def all_mutants() -> list[Mutant]:
    """In the order of the table."""
    from .client_mutants import CLIENT_MUTANTS
    from .fleet_mutants import FLEET_MUTANTS
    from .reset_mutants import RESET_MUTANTS
    from .server_mutants import SERVER_MUTANTS

    return [*SERVER_MUTANTS, *CLIENT_MUTANTS, *RESET_MUTANTS, *FLEET_MUTANTS]


def _catch_one(index: int) -> Catch:
    mutant = all_mutants()[index]
    known = known_seeds().get(mutant.does)
    return catch(mutant, [*([known] if known else []), *range(1, 1 + MOST_SEEDS)])


def known_seeds() -> dict[str, int]:
    """By mutant, the seed that the page names."""
    cells = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return {
        row[0].removeprefix("| "): int(row[2]) for row in cells if row[2:] and row[2].isdecimal()
    }


def page(catches: Sequence[Catch]) -> str:
    """docs/reference/mutants.md."""
    rows = [
        f"| {mutant.does} | {mutant.rule} | {caught.seed or '–'} | "
        f"{_cell(caught.failure or 'not at all')} |\n"
        for mutant, caught in zip(all_mutants(), catches, strict=True)
    ]
    return _HEAD + "".join(rows)


def _cell(text: str) -> str:
    line = text.splitlines()[0].partition("; ")[0].replace("|", "\\|")
    return line if len(line) <= _CELL_CHARS else line[:_CELL_CHARS] + "…"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exits with 1 if a mutant lives, or if the page is not what `--check` expects."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compares with the page")
    options = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    mutants, catches = all_mutants(), []
    with context.Pool(usable_cores()) as pool:
        for mutant, caught in zip(mutants, pool.imap(_catch_one, range(len(mutants))), strict=True):
            catches.append(caught)
            print(f"{caught.seed or 'LIVES':>6}  {mutant.rule:<14} {mutant.does}", flush=True)
    text = page(catches)
    if options.check:
        same = PAGE.read_text(encoding="utf-8") == text
        print("" if same else f"{PAGE} is not what `make mutants` writes", file=sys.stderr)
        return int(not same)
    PAGE.write_text(text, encoding="utf-8")
    return int(any(not caught.seed for caught in catches))


if __name__ == "__main__":
    raise SystemExit(main())
