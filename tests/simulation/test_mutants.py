"""Every mutant is still caught by the schedule that docs/reference/mutants.md names."""

from __future__ import annotations

import re

import pytest

from .mutants import PAGE, Mutant, Patches, all_mutants, catch

RULES = PAGE.parents[1] / "reliability.md"

_MUTANTS = all_mutants()


def _rows() -> list[list[str]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.split(" | ")] for line in lines if line.startswith("| ")]


_ROWS = _rows()[1:]


def test_the_page_lists_every_mutant() -> None:
    assert [row[0].removeprefix("| ") for row in _ROWS[-len(_MUTANTS) :]] == [
        mutant.does for mutant in _MUTANTS
    ]


def test_every_rule_of_the_protocol_has_a_mutant() -> None:
    text = RULES.read_text(encoding="utf-8")
    rules = set(re.findall(r"^\| (R\d+) \|", text, flags=re.MULTILINE))
    assert rules == {f"R{number}" for number in range(1, 19)}
    assert rules <= {mutant.rule for mutant in _MUTANTS}


@pytest.mark.parametrize("mutant", _MUTANTS, ids=lambda mutant: mutant.does)
def test_it_can_be_made_and_unmade(mutant: Mutant) -> None:
    with Patches() as patches:
        mutant.patch(patches)
        assert patches.changed
    assert not patches.changed


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(_MUTANTS)), ids=lambda n: _MUTANTS[n].does)
def test_it_is_caught(number: int) -> None:
    seed = _ROWS[-len(_MUTANTS) :][number][2]
    assert seed.isdecimal(), "no schedule is known to catch it"
    assert catch(_MUTANTS[number], [int(seed)]).seed, "run `make mutants`"
