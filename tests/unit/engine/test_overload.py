"""More than can be run: refusals cost one call a stream, and take nobody's place."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_server.core.ports import StepBlock
from carousel_server.core.types import SessionRef

from .fakes import RecordingSink, Rig, rows


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


def lockstep(
    sink: RecordingSink, refs: list[SessionRef], first: int, *, deadline_s: float = np.inf
) -> StepBlock:
    """One step of each of these sessions, whose tags count from 1; the input is always 1."""
    tags = list(range(1, len(refs) + 1))
    ones = rows(*[1] * len(refs))
    return StepBlock(sink, tags, refs, [first] * len(refs), 1, ones, deadline_s=deadline_s)


def test_late_sessions_of_a_stream_are_refused_in_one_call(sink: RecordingSink) -> None:
    rig, other = Rig(max_batch=2, slots=8), RecordingSink()
    refs = [rig.session(sink, tag) for tag in range(1, 5)]
    theirs = [rig.session(other, tag) for tag in range(1, 3)]
    rig.engine.submit(lockstep(sink, refs, 1, deadline_s=rig.now + 1))
    rig.engine.submit(lockstep(other, theirs, 1))
    rig.tick()  # two of four
    rig.now += 2
    rig.settle()
    assert sink.refusal_calls == 1
    assert [(tag, seq) for tag, seq, _ in sink.refusals] == [(3, 1), (4, 1)]
    assert {(e.reason, e.metadata["expected"]) for *_, e in sink.refusals} == {
        ("DEADLINE_EXCEEDED", "1")
    }
    assert [other.of(tag) for tag in (1, 2)] == [[(1, [1, -1])]] * 2


def test_what_is_late_takes_nobodys_place_in_the_batch(sink: RecordingSink) -> None:
    rig, other = Rig(max_batch=2, slots=8), RecordingSink()
    late = [rig.session(sink, tag) for tag in range(1, 5)]
    fine = [rig.session(other, tag) for tag in range(1, 3)]
    rig.engine.submit(lockstep(sink, late, 1, deadline_s=rig.now + 1))
    rig.engine.submit(lockstep(other, fine, 1))
    rig.engine._control.run(rig.engine._inbox.drain(), rig.now)
    rig.now += 2
    rig.tick()
    assert len(sink.refusals) == 4
    assert len(other.steps) == 2
    assert rig.metrics.ticks[-1][0] == 2


def test_gaps_of_a_block_are_refused_in_one_call(sink: RecordingSink) -> None:
    rig = Rig()
    refs = [rig.session(sink, tag) for tag in range(1, 5)]
    rig.run(lockstep(sink, refs[:1], 1))
    rig.run(lockstep(sink, refs, 2))
    assert sink.of(1) == [(1, [1, -1]), (2, [2, -2])]
    assert sink.refusal_calls == 1
    assert [(tag, seq, e.reason, e.metadata) for tag, seq, e in sink.refusals] == [
        (tag, 2, "SEQUENCE_GAP", {"expected": "1"}) for tag in (2, 3, 4)
    ]


def test_sessions_that_stand_elsewhere_hear_what_is_expected_of_each(sink: RecordingSink) -> None:
    rig = Rig()
    refs = [rig.session(sink, tag) for tag in range(1, 4)]
    rig.run(lockstep(sink, refs[:2], 1))
    rig.run(lockstep(sink, refs, 5))
    assert {tag: e.metadata["expected"] for tag, _, e in sink.refusals} == {1: "2", 2: "2", 3: "1"}
    assert sink.refusal_calls == 2


def test_gaps_of_many_blocks_are_refused_in_one_call(sink: RecordingSink) -> None:
    rig = Rig()
    refs = [rig.session(sink, tag) for tag in (1, 2)]
    for first in (3, 4, 5):
        rig.engine.submit(lockstep(sink, refs, first))
    rig.tick()
    assert sink.refusal_calls == 1
    assert [(tag, seq) for tag, seq, _ in sink.refusals] == [
        (tag, seq) for seq in (3, 4, 5) for tag in (1, 2)
    ]
    assert {(e.reason, e.metadata["expected"]) for *_, e in sink.refusals} == {
        ("SEQUENCE_GAP", "1")
    }


def test_refusals_of_a_session_come_in_the_order_of_its_blocks(sink: RecordingSink) -> None:
    rig = Rig()
    ref = rig.session(sink)
    rig.engine.submit(lockstep(sink, [ref], 2))
    rig.engine.submit(lockstep(sink, [ref], 1, deadline_s=rig.now))
    rig.engine.submit(lockstep(sink, [ref], 3))
    rig.engine.submit(lockstep(sink, [ref], 1))
    rig.engine.submit(lockstep(sink, [ref], 2))
    rig.settle()
    assert [(seq, error.reason) for _, seq, error in sink.refusals] == [
        (2, "SEQUENCE_GAP"),
        (1, "DEADLINE_EXCEEDED"),
        (3, "SEQUENCE_GAP"),
    ]
    assert sink.of(1) == [(1, [1, -1]), (2, [2, -2])]


def test_two_streams_are_each_told_of_their_own(sink: RecordingSink) -> None:
    rig, other = Rig(), RecordingSink()
    mine = [rig.session(sink, tag) for tag in (1, 2)]
    theirs = [rig.session(other, tag) for tag in (1, 2)]
    rig.engine.submit(lockstep(sink, mine, 3))
    rig.engine.submit(lockstep(other, theirs, 3))
    rig.tick()
    for told in (sink, other):
        assert told.refusal_calls == 1
        assert [tag for tag, *_ in told.refusals] == [1, 2]


def test_a_session_goes_on_from_what_was_expected(sink: RecordingSink) -> None:
    rig = Rig(max_batch=1)
    refs = [rig.session(sink, tag) for tag in (1, 2)]
    rig.engine.submit(lockstep(sink, refs, 1, deadline_s=rig.now + 1))
    rig.tick()
    rig.now += 2
    rig.engine.submit(lockstep(sink, refs, 2))  # was on its way
    rig.settle()
    refused = {tag: int(error.metadata["expected"]) for tag, _, error in sink.refusals}
    assert refused == {2: 1}
    rig.engine.submit(StepBlock(sink, [2], refs[1:], [refused[2]], 2, rows(1, 1)))
    rig.settle()
    assert sink.of(2) == [(1, [1, -1]), (2, [2, -2])]
