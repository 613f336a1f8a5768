"""Blocks joined into arrays are the blocks' rows one after the other, whatever their columns are in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel_server.core.errors import CarouselError
from carousel_server.core.late_acks import LateAcks
from carousel_server.core.ports import NO_DEADLINE, StepBlock
from carousel_server.core.types import SessionRef
from carousel_server.engine.arrivals import NO_ACK, join
from tests.unit.engine.fakes import WIDTH, RecordingSink, Rig

ROW_BYTES = WIDTH * 4


@st.composite
def blocks(draw: st.DrawFn) -> list[StepBlock]:
    """Blocks of two steps, of two senders, with all that a block may have or lack."""
    senders = [RecordingSink(), RecordingSink()]
    made = []
    for number in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 3))
        column: Any = draw(st.sampled_from((list, np.asarray)))
        firsts = [draw(st.integers(1, 9)) for _ in range(n)]
        refs = [SessionRef(draw(st.integers(0, 7)), draw(st.integers(0, 1))) for _ in range(n)]
        made.append(
            StepBlock(
                senders[draw(st.integers(0, 1))], column(range(number, number + n)), column(refs),
                column(firsts), 2, draw(st.binary(min_size=n * 2 * ROW_BYTES, max_size=n * 2 * ROW_BYTES)),
                acks=column([first - 1 for first in firsts]) if draw(st.booleans()) else (),
                deadline_s=draw(st.sampled_from((NO_DEADLINE, 7.0))),
                resets=bytes([1, 0] * n) if draw(st.booleans()) else b"",
            )
        )  # fmt: skip
    return made


@given(blocks(), st.booleans())
def test_a_join_has_every_row_of_every_block(given: list[StepBlock], apart: bool) -> None:
    rig = Rig()
    came = [float(number) if apart else 5.0 for number in range(len(given))]
    joined = join(given, came, rig.engine.model, rig.engine._rows)
    rows = [(block, arrived, i) for block, arrived in zip(given, came, strict=True)
            for i in range(len(block.refs))]  # fmt: skip
    assert len(joined.rows) == len(rows)
    for place, (block, arrived, i) in enumerate(rows):
        one = joined.where(np.asarray([place]))
        sink = one.senders[int(one.sender[0])]
        again = one.block(sink)
        size = 2 * ROW_BYTES
        assert sink is block.sink
        assert (one.arrived_s[0], again.deadline_s) == (arrived, block.deadline_s)
        assert (again.tags, again.first_seqs) == ([block.tags[i]], [block.first_seqs[i]])
        assert again.refs == [tuple(block.refs[i])]
        assert list(again.acks) == ([block.acks[i]] if len(block.acks) else [])
        assert again.inputs == block.inputs[i * size : (i + 1) * size]
        assert (again.resets or bytes(2)) == (block.resets[2 * i : 2 * i + 2] or bytes(2))
    assert joined.repeats() == (len(set(joined.rows.tolist())) < len(rows))


def test_acks_are_left_out_only_where_no_block_has_any() -> None:
    sink, ref, inputs = RecordingSink(), SessionRef(0, 0), bytes(ROW_BYTES)
    without = StepBlock(sink, [1], [ref], [1], 1, inputs)
    rig = Rig()
    model, rows = rig.engine.model, rig.engine._rows
    assert join([without], [0.0], model, rows).acks is None
    acked = StepBlock(sink, [1], [ref], [2], 1, inputs, [4])
    joined = join([without, acked], [0.0, 0.0], model, rows)
    assert joined.acks is not None
    assert joined.acks.tolist() == [NO_ACK, 4]


def test_arrays_step_as_lists_do() -> None:
    told = []
    for column in (list, np.asarray):
        rig, sink = Rig(), RecordingSink()
        refs: Any = [rig.session(sink, tag) for tag in range(3)]
        for seq in (1, 2, 2, 4):  # one comes again, and one is missing
            inputs = np.full((3, WIDTH), seq, "<f4").tobytes()
            columns = [column(c) for c in (range(3), refs, [seq] * 3)]  # type: ignore[operator]
            rig.engine.submit(StepBlock(sink, *columns, 1, inputs, column([seq - 2] * 3)))  # type: ignore[operator]
            rig.settle()
        told.append(
            (
                [sink.of(tag) for tag in range(3)],
                [(t, s) for t, s, _ in sink.refusals],
                sink.reasons,
            )
        )
    assert told[0] == told[1]
    assert told[0][0][0] == [(1, [1.0, 1.0]), (2, [3.0, 3.0]), (2, [3.0, 3.0])]
    assert told[0][2] == ["SEQUENCE_GAP"] * 3


def test_a_refused_block_of_arrays_names_plain_numbers() -> None:
    rig, sink = Rig(), RecordingSink()
    rig.engine.stop()
    refs = np.asarray([[0, 0], [1, 0]])
    block = StepBlock(sink, np.asarray([5, 6]), refs, np.asarray([7, 8]), 1, bytes(2 * ROW_BYTES))
    rig.engine.submit_steps([block])
    assert [(tag, seq) for tag, seq, _ in sink.refusals] == [(5, 7), (6, 8)]
    assert {type(number) for tag, seq, _ in sink.refusals for number in (tag, seq)} == {int}


def test_late_acks_of_arrays_are_those_of_sessions() -> None:
    late, sink = LateAcks(), RecordingSink()
    refs = np.asarray([[3, 1], [4, 0]])
    block = StepBlock(
        sink, np.asarray([1, 2]), refs, np.asarray([9, 9]), 1, b"", np.asarray([5, 6])
    )
    late.add(block)
    (ack,) = late.take()
    assert ack.refs == [SessionRef(3, 1), SessionRef(4, 0)]
    assert ack.acks == [5, 6]


@pytest.mark.parametrize("timed_first", [True, False])
def test_a_deadline_is_its_own_steps_alone(timed_first: bool) -> None:
    """A row has steps with and without a deadline at the same time."""
    rig, sink = Rig(chunk_steps=1), RecordingSink()
    ref = rig.session(sink)
    deadlines = [rig.now + 1, NO_DEADLINE] if timed_first else [NO_DEADLINE, rig.now + 1]
    blocks = [
        StepBlock(sink, [1], [ref], [seq], 1, bytes(ROW_BYTES), deadline_s=until)
        for seq, until in enumerate(deadlines, 1)
    ]
    rig.engine._inbox.put_all(blocks)
    rig.engine._control.run(rig.engine._inbox.drain(), rig.now)
    rig.now += 2
    rig.settle()
    assert [seq for seq, _ in sink.of(1)] == ([] if timed_first else [1])
    assert [(seq, error.reason) for _, seq, error in sink.refusals] == [
        (1 if timed_first else 2, "DEADLINE_EXCEEDED")
    ]
    assert all(isinstance(error, CarouselError) for _, _, error in sink.refusals)
