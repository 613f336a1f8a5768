"""A schedule is decided by its seed, and leaves no fault out."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.cluster.faults import BY_NAME, FAULTS, LEASE_S
from tests.cluster.run import FORMS
from tests.cluster.schedule import Event, events

KINDS = [fault.kind for fault in FAULTS]
TARGETS = {"replica": 3, "shard": 2, "client": 4, "all": 1}


def first(seed: int, count: int = 100) -> list[Event]:
    return list(islice(events(seed, KINDS, TARGETS), count))


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert first(7) == first(7)
    assert first(7) != first(8)


@pytest.mark.parametrize("seed", range(5))
def test_each_round_has_every_fault_once(seed: int) -> None:
    names = [event.name for event in first(seed, 3 * len(KINDS))]
    for at in range(0, len(names), len(KINDS)):
        assert sorted(names[at : at + len(KINDS)]) == sorted(BY_NAME)


def test_two_rounds_differ_in_their_order() -> None:
    names = [event.name for event in first(3, 2 * len(KINDS))]
    assert names[: len(KINDS)] != names[len(KINDS) :]


def test_targets_and_times_are_within_their_bounds() -> None:
    for event in first(1, 400):
        kind = BY_NAME[event.name].kind
        assert 0 <= event.target < TARGETS[kind.target]
        assert kind.shortest_s <= event.hold_s <= kind.longest_s
    assert {event.target for event in first(1, 400)} == {0, 1, 2, 3}


def test_events_are_numbered_and_name_themselves() -> None:
    assert [event.number for event in first(1, 3)] == [1, 2, 3]
    assert str(Event(4, "a fault", 2, 0.5)) == "4: a fault (target 2, 0.50 s)"


def test_a_stop_outlives_the_lease() -> None:
    kind = BY_NAME["SIGSTOP beyond the lease"].kind
    assert kind.shortest_s > LEASE_S


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_name_faults_that_there_are(form: str) -> None:
    assert set(FORMS[form].faults) <= set(BY_NAME)
    assert FORMS[form].lease_ttl_s == LEASE_S
