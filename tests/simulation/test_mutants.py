"""Every mutant is still caught by the schedule that docs/reference/mutants.md names."""

from __future__ import annotations

import re

import pytest

from .mutants import PAGE, Mutant, Patches, all_mutants, catch, known_seeds

RULES = PAGE.parents[1] / "reliability.md"

_MUTANTS = all_mutants()


def test_the_page_lists_every_mutant() -> None:
    assert list(known_seeds()) == [mutant.does for mutant in _MUTANTS]


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
@pytest.mark.parametrize("mutant", _MUTANTS, ids=lambda mutant: mutant.does)
def test_it_is_caught(mutant: Mutant) -> None:
    assert catch(mutant, [known_seeds()[mutant.does]]).seed, "run `make mutants`"
