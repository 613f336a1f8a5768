"""The lifecycle table: what it allows, and that nothing else is possible."""

from __future__ import annotations

from itertools import product

import pytest

from carousel_server.core.types import Phase
from carousel_server.rows.lifecycle import TRANSITIONS, Event, advance, diagram


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)))
def test_every_pair_is_in_the_table_or_a_defect(phase: Phase, event: Event) -> None:
    if (phase, event) in TRANSITIONS:
        assert advance(phase, event) is TRANSITIONS[phase, event]
    else:
        with pytest.raises(AssertionError, match=phase.name):
            advance(phase, event)


def test_a_session_that_has_left_its_row_is_no_longer_in_the_table() -> None:
    assert {phase for phase, _ in TRANSITIONS} == {Phase.RESIDENT, Phase.DRAINING}


def test_every_phase_on_a_row_can_be_closed() -> None:
    on_a_row = {phase for phase, _ in TRANSITIONS}
    assert all(TRANSITIONS[phase, Event.CLOSE] is Phase.CLOSED for phase in on_a_row)


def test_the_diagram_has_every_edge() -> None:
    lines = diagram().splitlines()
    assert len(lines) == len(TRANSITIONS) + 4
    assert "    RESIDENT --> CLOSED: expire" in lines
