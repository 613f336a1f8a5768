"""Whole sequences through the engine: batched, in pieces where the model allows, each its own result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Infer

from .fakes import RecordingSink, Rig, RunningSum, block, rows


def sums(result: np.ndarray) -> list[float]:
    return [float(v) for v in result.view("<f4")[:, 0]]


def submit(rig: Rig, *values: float, **more: Any) -> Infer:
    call = Infer(rows(*values), **more)
    rig.engine.submit(call)
    return call


@pytest.mark.parametrize("causal", [True, False])
def test_sequences_of_any_length_share_a_batch(causal: bool) -> None:
    rig = Rig(RunningSum(causal=causal))
    calls = [submit(rig, *range(1, n + 1)) for n in (1, 5, 3)]
    rig.settle()
    assert [sums(call.reply.result(0)) for call in calls] == [[1], [1, 3, 6, 10, 15], [1, 3, 6]]
    assert rig.metrics.sequences == 3


def test_a_long_sequence_goes_in_pieces_between_the_ticks_of_sessions() -> None:
    rig, sink = Rig(), RecordingSink()
    ref = rig.session(sink)
    call = submit(rig, *[1.0] * 10)
    for seq in range(1, 4):
        rig.run(block(sink, ref, seq, 1))
        assert call.reply.done() == (seq == 3)
    assert sums(call.reply.result(0)) == list(range(1, 11))
    assert len(sink.of(1)) == 3


def test_sequences_join_at_the_next_piece_and_leave_at_their_own_end() -> None:
    rig, sink = Rig(), RecordingSink()
    ref = rig.session(sink)
    long = submit(rig, *[1.0] * 12)
    rig.run(block(sink, ref, 1, 1))
    short = submit(rig, 1.0, 2.0)
    rig.run(block(sink, ref, 2, 1))
    assert short.reply.done()
    assert not long.reply.done()
    rig.settle()
    assert sums(short.reply.result(0)) == [1, 3]
    assert sums(long.reply.result(0)) == list(range(1, 13))


def test_one_that_nobody_waits_for_any_more_leaves_the_others_as_they_are() -> None:
    rig, sink = Rig(), RecordingSink()
    ref = rig.session(sink)
    gone, stays = submit(rig, *[1.0] * 10), submit(rig, *[2.0] * 10)
    rig.run(block(sink, ref, 1, 1))
    assert gone.reply.cancel()
    rig.run(block(sink, ref, 2, 1))
    assert len(rig.engine._sequences) == 1
    rig.settle()
    assert sums(stays.reply.result(0)) == [2.0 * n for n in range(1, 11)]


def test_one_that_fails_half_way_costs_the_others_nothing() -> None:
    rig, sink = Rig(), RecordingSink()
    ref = rig.session(sink)
    calls = [submit(rig, *[1.0] * 10) for _ in range(3)]
    bad = submit(rig, *[1.0] * 5, 666.0, 1.0)
    rig.run(block(sink, ref, 1, 1))
    rig.settle()
    with pytest.raises(CarouselError, match="STEP_FAILED"):
        bad.reply.result(0)
    for call in calls:
        assert sums(call.reply.result(0)) == list(range(1, 11))


def test_what_is_kept_of_those_that_run_is_bounded() -> None:
    rig, sink = Rig(inbox_bytes=2000), RecordingSink()  # the outputs of one are 800
    ref = rig.session(sink)
    calls = []
    for seq in range(1, 4):
        calls.append(submit(rig, *[1.0] * 100))
        rig.run(block(sink, ref, seq, 1))
    running = [one.call for one in rig.engine._sequences._running]
    assert running == calls[:2]
    rig.settle()
    assert all(len(call.reply.result(0)) == 100 for call in calls)


def test_a_long_neighbour_does_not_keep_the_outputs_of_those_that_left() -> None:
    rig, sink = Rig(), RecordingSink()
    ref = rig.session(sink)
    submit(rig, *[1.0] * 10)
    submit(rig, 1.0)
    rig.run(block(sink, ref, 1, 1))
    (one,) = rig.engine._sequences._running
    assert all(part.base is None for part in one.parts)


def test_a_batch_is_bounded_in_padded_steps() -> None:
    rig = Rig(RunningSum(causal=False), infer_batch_steps=10)
    calls = [submit(rig, *[1.0] * 5) for _ in range(3)]
    rig.tick()
    assert [call.reply.done() for call in calls] == [True, True, False]
    rig.tick()
    assert calls[2].reply.done()


def test_strict_runs_each_alone() -> None:
    rig = Rig(RunningSum(causal=False), strict=True)
    calls = [submit(rig, 1.0) for _ in range(2)]
    rig.tick()
    assert [call.reply.done() for call in calls] == [True, False]


def test_the_queue_is_bounded() -> None:
    rig = Rig(max_infer_queue=1)
    first, second = submit(rig, 1.0), submit(rig, 1.0)
    rig.settle()
    assert first.reply.result(0) is not None
    with pytest.raises(CarouselError, match="QUEUE_FULL"):
        second.reply.result(0)


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (RunningSum(), rows(1, float("nan")), "INPUT_NOT_FINITE"),
        (RunningSum(tokens=True), np.asarray([1, 8], "<i4").tobytes(), "UNKNOWN_TOKEN"),
        (RunningSum(tokens=True), np.asarray([-1], "<i4").tobytes(), "UNKNOWN_TOKEN"),
    ],
)
def test_bad_values_are_refused(model: RunningSum, data: bytes, reason: str) -> None:
    rig = Rig(model)
    call = Infer(data)
    rig.engine.submit(call)
    rig.settle()
    with pytest.raises(CarouselError, match=reason):
        call.reply.result(0)


def test_a_cancelled_call_is_left_out() -> None:
    rig = Rig(RunningSum(causal=False))
    first, second = submit(rig, 1.0), submit(rig, 2.0)
    assert first.reply.cancel()
    rig.settle()
    assert sums(second.reply.result(0)) == [2.0]


def test_a_late_call_is_refused() -> None:
    rig = Rig()
    call = submit(rig, 1.0, deadline_s=rig.now - 1)
    rig.settle()
    with pytest.raises(CarouselError, match="DEADLINE_EXCEEDED"):
        call.reply.result(0)


def test_a_sequence_that_the_device_refuses_costs_only_itself() -> None:
    rig = Rig(RunningSum(causal=False))
    calls = [submit(rig, value) for value in (1.0, 2.0, 666.0, 4.0, 5.0)]
    rig.settle()
    with pytest.raises(CarouselError, match="STEP_FAILED"):
        calls[2].reply.result(0)
    assert [sums(calls[i].reply.result(0)) for i in (0, 1, 3, 4)] == [[1], [2], [4], [5]]


def test_a_device_that_fails_on_zeros_makes_the_model_unhealthy() -> None:
    rig = Rig(RunningSum(causal=False))
    rig.model.broken = True
    calls = [submit(rig, 1.0) for _ in range(3)]
    rig.tick()
    with pytest.raises(CarouselError, match="MODEL_UNHEALTHY"):
        submit(rig, 1.0)
    rig.engine.stop()
    for call in calls:
        with pytest.raises(CarouselError, match="MODEL_UNHEALTHY"):
            call.reply.result(0)


def test_cancelled_calls_leave_their_place() -> None:
    rig = Rig(RunningSum(causal=False), max_infer_queue=2, infer_batch_steps=1)
    calls = [submit(rig, 1.0) for _ in range(3)]
    rig.engine._control.run(rig.engine._inbox.drain(), rig.now)
    assert calls[1].reply.cancel()
    late = submit(rig, 2.0)
    rig.settle()
    assert sums(late.reply.result(0)) == [2.0]


def test_the_queue_is_bounded_in_bytes() -> None:
    rig = Rig(RunningSum(causal=False), inbox_bytes=40, infer_batch_steps=1)
    calls = [submit(rig, 1.0, 1.0) for _ in range(2)]
    rig.engine._control.run(rig.engine._inbox.drain(), rig.now)
    calls.append(submit(rig, 1.0, 1.0))
    rig.engine._control.run(rig.engine._inbox.drain(), rig.now)
    with pytest.raises(CarouselError, match="QUEUE_FULL"):
        calls[2].reply.result(0)
    rig.settle()
    assert all(call.reply.result(0) is not None for call in calls[:2])


def test_strict_cuts_a_sequence_at_the_same_places_whoever_streams() -> None:
    rig = Rig(strict=True)
    call = submit(rig, *[1.0] * 10)
    ticks = 0
    while not call.reply.done():
        rig.tick()
        ticks += 1
    assert ticks == 3
