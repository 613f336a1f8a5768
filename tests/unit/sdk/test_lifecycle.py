"""The table of a lane's phases: what it allows, and that nothing else is possible."""

from __future__ import annotations

import random
from itertools import product

import pytest

from carousel._core.lane import Lane
from carousel._core.lifecycle import (
    ANY_TIME,
    IN_TURN,
    LIVE,
    TRANSITIONS,
    LaneEvent,
    LanePhase,
    advance,
    diagram,
)
from carousel._core.link import Links
from carousel._core.retry import RetryPolicy

LINK = Links(RetryPolicy(), random.Random(0)).of("host:1")


@pytest.mark.parametrize(("phase", "event"), list(product(LanePhase, LaneEvent)))
def test_every_pair_is_in_the_table_or_a_defect(phase: LanePhase, event: LaneEvent) -> None:
    lane = Lane(1, 1, LINK, phase=phase)
    if (phase, event) in TRANSITIONS:
        assert advance(phase, event) is TRANSITIONS[phase, event]
        lane.advance(event)
        assert lane.phase is TRANSITIONS[phase, event]
    else:
        with pytest.raises(AssertionError, match=f"{phase.name} met {event.name}"):
            lane.advance(event)
        assert lane.phase is phase


def test_gone_is_the_end() -> None:
    assert not [event for phase, event in TRANSITIONS if phase is LanePhase.GONE]
    assert [event for phase, event in TRANSITIONS if phase is LanePhase.UNDONE] == [
        LaneEvent.REPORT
    ]
    assert [phase for phase in LanePhase if Lane(1, 1, LINK, phase=phase).gone] == [
        LanePhase.GONE,
        LanePhase.UNDONE,
    ]


def test_every_live_lane_can_be_cut_off_and_can_end() -> None:
    for phase in LIVE:
        assert advance(phase, LaneEvent.CUT_OFF) is LanePhase.WAITING
        assert advance(phase, LaneEvent.END) is LanePhase.GONE


def test_every_phase_can_be_reached() -> None:
    assert {LanePhase.WAITING, *TRANSITIONS.values()} == set(LanePhase)


def test_every_event_is_used() -> None:
    assert {event for _, event in TRANSITIONS} == set(LaneEvent)


def test_the_diagram_has_every_edge_once() -> None:
    lines = [line.strip() for line in diagram().splitlines()]
    edges = [line for line in lines if "-->" in line and "[*]" not in line]
    assert len(edges) == len(set(edges)) == len(IN_TURN) + len(ANY_TIME)
    assert "BINDING --> BOUND: Bound" in edges
    assert "LIVE --> WAITING: stream broken" in edges
