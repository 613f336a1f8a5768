"""Client-fed steps through the engine: in order, exactly once, refusals that harm nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Ack, Bind, Replay, StepBlock, Unbind
from carousel_server.core.store import SessionKey
from carousel_server.engine.admission import Admission

from .fakes import RecordingSink, Rig, RunningSum, block, rows


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


def test_steps_add_up_in_order(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2, 3))
    rig.run(block(sink, ref, 4, 4))
    assert sink.of(1) == [(1, [1, -1]), (2, [3, -3]), (3, [6, -6]), (4, [10, -10])]


def test_a_stream_is_called_once_a_tick_whatever_the_number_of_its_sessions(
    rig: Rig, sink: RecordingSink
) -> None:
    refs = [rig.session(sink, tag) for tag in (1, 2, 3)]
    for tag, ref in enumerate(refs, 1):
        rig.engine.submit(block(sink, ref, 1, tag, tag=tag))
    rig.tick()
    assert sink.calls == 1
    assert [sink.of(tag) for tag in (1, 2, 3)] == [[(1, [t, -t])] for t in (1, 2, 3)]
    assert rig.metrics.ticks == [(3, 4, 3)]


def test_one_block_steps_many_sessions(rig: Rig, sink: RecordingSink) -> None:
    a, b = rig.session(sink, 1), rig.session(sink, 2)
    rig.run(StepBlock(sink, [1, 2], [a, b], [1, 1], 2, rows(1, 2, 10, 20)))
    assert sink.of(1) == [(1, [1, -1]), (2, [3, -3])]
    assert sink.of(2) == [(1, [10, -10]), (2, [30, -30])]


def test_blocks_of_one_session_may_be_pipelined(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    for seq in range(1, 6):
        rig.engine.submit(block(sink, ref, seq, 1))
    rig.settle()
    assert [seq for seq, _ in sink.of(1)] == [1, 2, 3, 4, 5]
    assert sink.of(1)[-1] == (5, [5, -5])


def test_rows_with_more_steps_do_not_disturb_rows_with_fewer(rig: Rig, sink: RecordingSink) -> None:
    a, b, c = (rig.session(sink, tag) for tag in (1, 2, 3))
    rig.engine.submit(block(sink, a, 1, 1, tag=1))
    rig.engine.submit(block(sink, b, 1, 1, 1, 1, 1, tag=2))
    rig.engine.submit(block(sink, c, 1, 1, 1, tag=3))
    rig.tick()
    rig.run(StepBlock(sink, [1, 2, 3], [a, b, c], [2, 5, 3], 1, rows(1, 1, 1)))
    assert [sink.of(tag)[-1][1] for tag in (1, 2, 3)] == [[2, -2], [5, -5], [3, -3]]


def test_a_gap_is_refused_with_what_is_expected(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 3, 1))
    [(tag, seq, error)] = sink.refusals
    assert (tag, seq, error.reason, error.metadata) == (1, 3, "SEQUENCE_GAP", {"expected": "1"})
    rig.run(block(sink, ref, 1, 1))
    assert sink.of(1) == [(1, [1, -1])]


def test_a_repeated_step_is_answered_but_not_run(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 5, 6))
    ran = len(rig.model.batches)
    rig.run(block(sink, ref, 1, 5, 6))
    assert len(rig.model.batches) == ran
    assert sink.of(1) == [(1, [5, -5]), (2, [11, -11])] * 2


def test_a_block_half_repeated_runs_the_new_half(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2))
    rig.run(block(sink, ref, 2, 2, 3))
    assert [seq for seq, _ in sink.of(1)] == [1, 2, 2, 3]
    assert sink.of(1)[-1] == (3, [6, -6])


def test_a_repeated_step_that_still_waits_runs_once(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 5))
    rig.engine.submit(block(sink, ref, 1, 5))
    rig.settle()
    assert sink.of(1) == [(1, [5, -5])]


def test_a_seq_with_other_inputs_is_refused(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2))
    rig.run(block(sink, ref, 1, 1, 9))
    [(_, seq, error)] = sink.refusals
    assert (seq, error.reason) == (2, "SEQUENCE_REUSED")
    rig.run(block(sink, ref, 3, 3))
    assert sink.of(1)[-1] == (3, [6, -6])


def test_an_acknowledged_output_is_forgotten(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2, 3))
    rig.run(Ack(sink, [ref], [2]))
    rig.run(block(sink, ref, 2, 2))
    assert sink.reasons == ["OUTPUT_FORGOTTEN"]
    rig.run(block(sink, ref, 3, 3))
    assert sink.of(1)[-1] == (3, [6, -6])


def test_an_ack_moves_neither_back_nor_beyond_applied(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2))
    rig.run(Ack(sink, [ref], [99]))
    assert rig.engine._rows.table.ack[ref.row] == 2
    rig.run(Ack(sink, [ref], [1]))
    assert rig.engine._rows.table.ack[ref.row] == 2


def test_the_window_bounds_what_is_not_acknowledged(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, *range(8)))
    rig.settle()
    rig.run(block(sink, ref, 9, 1))
    [(_, seq, error)] = sink.refusals
    assert (seq, error.reason, error.metadata) == (9, "WINDOW_EXCEEDED", {"limit": "8"})
    assert error.retry_after_s
    rig.run(block(sink, ref, 9, 1, acks=[8]))
    assert sink.of(1)[-1] == (9, [29, -29])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_value_harms_neither_the_session_nor_a_neighbour(
    rig: Rig, sink: RecordingSink, bad: float
) -> None:
    a, b = rig.session(sink, 1), rig.session(sink, 2)
    rig.run(StepBlock(sink, [1, 2], [a, b], [1, 1], 2, rows(1, bad, 10, 20)))
    [(tag, seq, error)] = sink.refusals
    assert (tag, seq, error.reason) == (1, 1, "INPUT_NOT_FINITE")
    assert "step 2" in error.message
    assert sink.of(2) == [(1, [10, -10]), (2, [30, -30])]
    rig.run(block(sink, a, 1, 7, tag=1))
    assert sink.of(1) == [(1, [7, -7])]


def test_an_unknown_token_is_refused(sink: RecordingSink) -> None:
    rig = Rig(RunningSum(tokens=True))
    ref = rig.session(sink)
    for token in (8, -1):
        tokens = np.asarray([token], "<i4").tobytes()
        rig.run(StepBlock(sink, [1], [ref], [1], 1, tokens))
    assert sink.reasons == ["UNKNOWN_TOKEN"] * 2
    rig.run(StepBlock(sink, [1], [ref], [1], 1, np.asarray([7], "<i4").tobytes()))
    assert sink.of(1)[0][1][7] == 1.0


def test_a_step_that_is_late_on_arrival_is_refused(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, deadline_s=rig.now - 1))
    assert sink.reasons == ["DEADLINE_EXCEEDED"]
    rig.run(block(sink, ref, 1, 1))
    assert sink.of(1) == [(1, [1, -1])]


def test_a_step_that_grows_late_in_the_queue_is_refused_with_those_behind_it(
    sink: RecordingSink,
) -> None:
    rig = Rig(chunk_steps=1)
    a, b = rig.session(sink, 1), rig.session(sink, 2)
    rig.engine.submit(block(sink, a, 1, 1, 2, 3, tag=1, deadline_s=rig.now + 5))
    rig.tick()
    rig.now += 10
    rig.run(block(sink, b, 1, 1, tag=2))
    [(tag, seq, error)] = sink.refusals
    assert (tag, seq, error.reason) == (1, 2, "DEADLINE_EXCEEDED")
    assert error.metadata == {"expected": "2"}
    assert sink.of(2) == [(1, [1, -1])]
    rig.run(block(sink, a, 2, 2, tag=1))
    assert sink.of(1) == [(1, [1, -1]), (2, [3, -3])]


def test_the_newest_binding_wins(rig: Rig) -> None:
    old, new = RecordingSink(), RecordingSink()
    ref = rig.session(old, tag=4)
    rig.run(Bind(ref, new, 9))
    assert [(tag, error.reason) for tag, error in old.gone] == [(4, "SUPERSEDED")]
    rig.run(block(old, ref, 1, 1, tag=4))
    assert old.reasons == ["SUPERSEDED"]
    rig.run(block(new, ref, 1, 1, tag=9))
    assert new.of(9) == [(1, [1, -1])]


@pytest.mark.parametrize("key", [SessionKey("other", "s"), SessionKey("t", "other")])
def test_a_session_of_another_key_is_not_bound(rig: Rig, sink: RecordingSink, key: Any) -> None:
    ref, thief = rig.session(sink, session_id="s"), RecordingSink()
    with pytest.raises(CarouselError, match="SESSION_NOT_FOUND"):
        rig.run(Bind(ref, thief, 9, key=key))
    rig.run(block(thief, ref, 1, 1, tag=9))
    assert thief.reasons == ["SUPERSEDED"]
    rig.run(block(sink, ref, 1, 1))
    assert sink.of(1) == [(1, [1, -1])]
    rig.run(Bind(ref, thief, 9, key=SessionKey("t", "s")))
    assert [error.reason for _, error in sink.gone] == ["SUPERSEDED"]


def test_outputs_of_an_unbound_session_can_be_had_again(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 1, 2))
    rig.engine.submit(Unbind(ref, sink))
    rig.settle()
    assert sink.steps == []
    later = RecordingSink()
    rig.bind(ref, later, 3)
    rig.run(Replay(ref, later))
    assert later.of(3) == [(1, [1, -1]), (2, [3, -3])]


def test_unbinding_an_older_stream_leaves_the_newer_one(rig: Rig) -> None:
    old, new = RecordingSink(), RecordingSink()
    ref = rig.session(old)
    rig.bind(ref, new, 2)
    rig.run(Unbind(ref, old))
    rig.run(block(new, ref, 1, 1, tag=2))
    assert new.of(2) == [(1, [1, -1])]


def test_unbinding_an_older_binding_leaves_the_newer_one_of_the_same_stream(
    rig: Rig, sink: RecordingSink
) -> None:
    ref = rig.session(sink, 1)
    rig.bind(ref, sink, 2)
    rig.run(Unbind(ref, sink, tag=1))
    rig.run(block(sink, ref, 1, 1, tag=2))
    assert sink.of(2) == [(1, [1, -1])]


def test_steps_of_a_closed_session_are_told_so(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.close(ref)
    other = rig.session(sink, 2)
    assert other.row == ref.row
    rig.run(block(sink, ref, 1, 1))
    assert [error.reason for _, error in sink.gone] == ["SESSION_CLOSED"]
    assert sink.reasons == ["SESSION_CLOSED"]
    rig.run(block(sink, other, 1, 1, tag=2))
    assert sink.of(2) == [(1, [1, -1])]


def test_a_row_starts_at_zero_for_its_next_session(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 5))
    rig.close(ref)
    assert not rig.engine._rows.slab.take(torch.tensor([ref.row]))["sum"].any()
    again = rig.session(sink, 2)
    rig.run(block(sink, again, 1, 1, tag=2))
    assert sink.of(2) == [(1, [1, -1])]


def test_a_step_that_the_device_refuses_costs_only_itself(rig: Rig, sink: RecordingSink) -> None:
    refs = [rig.session(sink, tag) for tag in range(1, 6)]
    rig.run(StepBlock(sink, [1, 2, 3, 4, 5], refs, [1] * 5, 1, rows(1, 2, 666, 4, 5)))
    [(tag, seq, error)] = sink.refusals
    assert (tag, seq, error.reason) == (3, 1, "STEP_FAILED")
    assert [sink.of(t) for t in (1, 2, 4, 5)] == [[(1, [t, -t])] for t in (1, 2, 4, 5)]
    rig.run(block(sink, refs[2], 1, 3, tag=3))
    assert sink.of(3) == [(1, [3, -3])]


@pytest.mark.parametrize("error", [ValueError("custom"), MemoryError(), IndexError()])
def test_whatever_a_model_raises_costs_only_its_step(
    rig: Rig, sink: RecordingSink, error: Exception
) -> None:
    rig.model.error = error
    a, b = rig.session(sink, 1), rig.session(sink, 2)
    for _ in range(40):
        rig.run(StepBlock(sink, [1, 2], [a, b], [1, 1], 1, rows(666, 1)))
    assert sink.reasons == ["STEP_FAILED"] * 40
    assert all(failure.retry_after_s is None for _, _, failure in sink.refusals)
    assert sink.of(2)[0] == (1, [1, -1])
    rig.run(block(sink, a, 1, 1))


def test_the_steps_before_the_one_at_fault_are_run(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 1, 2, 666, 4))
    rig.settle()
    assert sink.of(1) == [(1, [1, -1]), (2, [3, -3])]
    [(_, seq, error)] = sink.refusals
    assert (seq, error.reason, error.metadata) == (3, "STEP_FAILED", {"expected": "3"})


def test_a_device_that_fails_on_zeros_makes_the_model_unhealthy(
    rig: Rig, sink: RecordingSink
) -> None:
    ref = rig.session(sink)
    rig.model.broken = True
    rig.engine.submit(block(sink, ref, 1, 1))
    rig.tick()
    with pytest.raises(CarouselError) as caught:
        rig.engine.submit(block(sink, ref, 1, 1))
    assert caught.value.reason == "MODEL_UNHEALTHY"
    assert not rig.engine.healthy


def test_the_inbox_is_bounded(sink: RecordingSink) -> None:
    rig = Rig(inbox_commands=4)
    ref, other = rig.session(sink), rig.session(sink, 2)
    for seq in range(1, 5):
        rig.engine.submit(block(sink, ref, seq, 1))
    with pytest.raises(CarouselError) as caught:
        rig.engine.submit(block(sink, ref, 5, 1))
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_s
    rig.engine.submit(Unbind(other, sink))  # what makes room is always taken
    rig.settle()
    assert len(sink.of(1)) == 4


def test_acks_that_meet_a_full_inbox_are_merged_and_count(sink: RecordingSink) -> None:
    rig = Rig(inbox_commands=4)
    ref, other = rig.session(sink, 1), rig.session(sink, 2)
    for session, tag in ((ref, 1), (other, 2)):
        rig.run(block(sink, session, 1, *range(1, 9), tag=tag))
    rig.settle()
    for ahead in range(4):
        rig.engine.submit(block(sink, other, 9 + ahead, 1, tag=2))
    for seq in (3, 8, 5) * 1000:
        rig.engine.submit(Ack(sink, [ref], [seq]))
    with pytest.raises(CarouselError, match="QUEUE_FULL"):
        rig.engine.submit(block(sink, other, 13, 1, acks=[7], tag=2))
    assert len(rig.engine._inbox) == 5, "however many, they need no room"
    rig.settle()
    acks = rig.engine._rows.table.ack
    assert (acks[ref.row], acks[other.row]) == (8, 7), "also the ack of the refused block"


def test_an_ack_of_an_engine_that_is_stuck_is_not_lost(sink: RecordingSink) -> None:
    rig = Rig()
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2))
    rig.engine._tick_began_s = rig.now - 3600
    with pytest.raises(CarouselError, match="does not move"):
        rig.engine.submit(block(sink, ref, 3, 1))
    rig.engine.submit(Ack(sink, [ref], [2]))
    rig.engine._tick_began_s = None
    rig.settle()
    assert rig.engine._rows.table.ack[ref.row] == 2


def test_the_inbox_is_bounded_in_bytes_until_it_is_drained(sink: RecordingSink) -> None:
    rig = Rig(inbox_bytes=600)
    ref = rig.session(sink)
    for seq in range(1, 9, 2):
        rig.engine.submit(block(sink, ref, seq, 1))
        rig.engine.submit(block(sink, ref, seq + 1, 1))
        with pytest.raises(CarouselError, match="QUEUE_FULL"):
            rig.engine.submit(block(sink, ref, seq + 2, 1))
        rig.tick()
    assert len(sink.of(1)) == 8


def test_a_tick_takes_a_bounded_number_of_commands(sink: RecordingSink) -> None:
    rig = Rig()
    ref = rig.session(sink)
    for _ in range(5000):
        rig.engine.submit(Ack(sink, [ref], [0]))
    rig.tick()
    assert len(rig.engine._inbox) == 5000 - 4096
    rig.settle()


def test_two_streams_in_one_tick_get_their_own_outputs(rig: Rig) -> None:
    sinks = [RecordingSink() for _ in range(3)]
    refs = [rig.session(sinks[n % 3], tag=n) for n in range(6)]
    for n, ref in enumerate(refs):
        rig.engine.submit(block(sinks[n % 3], ref, 1, float(n), tag=n))
    rig.tick()
    for number, sink in enumerate(sinks):
        assert sink.calls == 1
        assert {s.tag: s.row[0] for s in sink.steps} == {number: number, number + 3: number + 3}


def test_a_superseded_streams_acks_are_old_news(rig: Rig) -> None:
    old, new = RecordingSink(), RecordingSink()
    ref = rig.session(old)
    rig.run(block(old, ref, 1, 1, 2))
    rig.bind(ref, new, 5)
    rig.run(Ack(old, [ref], [2]))
    rig.run(block(old, ref, 3, 3, acks=[2]))
    rig.run(Replay(ref, new))
    assert new.of(5) == [(1, [1, -1]), (2, [3, -3])]


def test_a_superseded_stream_cannot_replay(rig: Rig) -> None:
    old, new = RecordingSink(), RecordingSink()
    ref = rig.session(old)
    rig.run(block(old, ref, 1, 1))
    rig.bind(ref, new, 5)
    rig.run(Replay(ref, old))
    assert new.steps == []


def test_a_later_ack_does_not_overtake_an_earlier_repeat(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1))
    rig.engine.submit(block(sink, ref, 1, 1))
    rig.engine.submit(block(sink, ref, 2, 2, acks=[1]))
    rig.engine.submit(block(sink, ref, 2, 2))
    rig.engine.submit(Ack(sink, [ref], [1]))
    rig.settle()
    assert sink.refusals == []
    assert [seq for seq, _ in sink.of(1)] == [1, 1, 2]


def test_an_ack_beyond_applied_counts_only_up_to_there(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 1, 2, 3))
    rig.engine.submit(Ack(sink, [ref], [3]))
    rig.settle()
    assert rig.engine._rows.table.ack[ref.row] == 0


def test_a_late_command_is_told_of_its_own_session_only(rig: Rig) -> None:
    sink = RecordingSink()
    ref = rig.session(sink, session_id="mine")
    rig.close(ref)
    other = rig.open("private", tenant="someone else")
    assert other.row == ref.row
    rig.run(block(sink, ref, 1, 1))
    rig.close(other)
    rig.run(block(sink, ref, 1, 1))
    assert sink.reasons == ["SESSION_CLOSED", "SESSION_CLOSED"]
    assert all("'mine' was closed" in error.message for _, _, error in sink.refusals)


def test_a_chunk_runs_up_to_its_first_late_step(sink: RecordingSink) -> None:
    rig = Rig(chunk_steps=8)
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 1, 2))
    rig.engine.submit(block(sink, ref, 3, 3, 4, deadline_s=rig.now + 5))
    rig.engine._control.run(rig.engine._inbox.drain(), rig.now)
    rig.now += 10
    rig.settle()
    assert [seq for seq, _ in sink.of(1)] == [1, 2]
    [(_, seq, error)] = sink.refusals
    assert (seq, error.reason) == (3, "DEADLINE_EXCEEDED")


def test_many_blocks_of_one_session_cost_no_more_than_their_number(
    rig: Rig, sink: RecordingSink
) -> None:
    ref = rig.session(sink)
    for _ in range(3000):
        rig.engine.submit(block(sink, ref, 1, 1))
    for _ in range(3000):
        rig.engine.submit(block(sink, ref, 5, 1))
    copied = 0
    where = Admission._admit_once

    def counting(self: Admission, new: Any, now: float) -> None:
        nonlocal copied
        copied += len(new.rows)
        where(self, new, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Admission, "_admit_once", counting)
        rig.settle()
    assert copied == 3000
    assert sink.of(1) == [(1, [1, -1])]
    assert sink.reasons == ["SEQUENCE_GAP"] * 3000


def test_more_ready_sessions_than_fit_take_turns(sink: RecordingSink) -> None:
    rig = Rig(max_batch=2, slots=6, chunk_steps=1)
    refs = [rig.session(sink, tag) for tag in range(6)]
    rig.engine.submit(StepBlock(sink, list(range(6)), refs, [1] * 6, 2, rows(*[1] * 12)))
    served = []
    for _ in range(6):
        before = len(sink.steps)
        rig.tick()
        served.append(sorted(step.tag for step in sink.steps[before:]))
    assert served == [[0, 1], [2, 3], [4, 5]] * 2
