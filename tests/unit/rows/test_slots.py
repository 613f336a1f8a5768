"""Slots: every row is somebody's or nobody's, and old names never fit new tenants."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import DataObject, data, sampled_from

from carousel_server.core.types import SessionRef
from carousel_server.rows.slots import Slots


def test_all_rows_are_given_once_then_none() -> None:
    slots = Slots(3)
    refs = [slots.allocate() for _ in range(3)]
    assert sorted(ref.row for ref in refs if ref) == [0, 1, 2]
    assert slots.allocate() is None
    assert slots.used == 3


def test_freeing_twice_is_our_bug() -> None:
    slots = Slots(1)
    ref = slots.allocate()
    assert ref is not None
    slots.free(ref)
    with pytest.raises(AssertionError, match="not live"):
        slots.free(ref)


class SlotsMachine(RuleBasedStateMachine):
    """Against a model: the set of live refs, and all refs that ever died."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(4)
        self.live: set[SessionRef] = set()
        self.dead: set[SessionRef] = set()

    @rule()
    def allocate(self) -> None:
        ref = self.slots.allocate()
        assert (ref is None) == (len(self.live) == 4)
        if ref is not None:
            assert ref not in self.live | self.dead
            self.live.add(ref)

    @precondition(lambda self: self.live)
    @rule(data=data())
    def free(self, data: DataObject) -> None:
        ref = data.draw(sampled_from(sorted(self.live)))
        self.slots.free(ref)
        self.live.remove(ref)
        self.dead.add(ref)

    @invariant()
    def agrees(self) -> None:
        self.slots.check_integrity()
        assert self.slots.used == len(self.live)
        assert all(self.slots.is_live(ref) for ref in self.live)
        assert not any(self.slots.is_live(ref) for ref in self.dead)


SlotsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSlots = SlotsMachine.TestCase
