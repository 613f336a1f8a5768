"""A step that starts from the session's initial state: once, where its number is, whatever comes between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from carousel_server.core.ports import (
    Ack,
    Bind,
    CancelGenerate,
    Export,
    Fork,
    Generate,
    Import,
    Replay,
    StepBlock,
)
from carousel_server.core.types import Durability, GenerateSpec, OpenSpec, SamplingSpec, SessionRef
from carousel_server.rows.snapshot import decode

from .durable_rig import DurableRig
from .fakes import RecordingSink, RecordingTokens, Rig, RunningSum, block, rows
from .test_generation import GREEDY, generate, ids


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


def of(*flags: int) -> bytes:
    return bytes(flags)


def sums(sink: RecordingSink, tag: int = 1) -> list[float]:
    return [row[0] for _, row in sink.of(tag)]


def test_a_step_with_a_reset_starts_from_the_initial_state(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2))
    rig.run(block(sink, ref, 3, 5, resets=of(1)))
    rig.run(block(sink, ref, 4, 7))
    assert sink.of(1) == [(1, [1, -1]), (2, [3, -3]), (3, [5, -5]), (4, [12, -12])]


@pytest.mark.parametrize("chunk_steps", [1, 2, 3, 8])
def test_resets_in_the_middle_of_a_block_begin_episodes(chunk_steps: int) -> None:
    rig, sink = Rig(chunk_steps=chunk_steps), RecordingSink()
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 1, 2, 4, 8, 16, 32, resets=of(0, 0, 1, 0, 1, 1)))
    rig.settle()
    assert sums(sink) == [1, 3, 4, 12, 16, 32]
    assert [seq for seq, _ in sink.of(1)] == [1, 2, 3, 4, 5, 6]


def test_a_row_resets_beside_rows_that_do_not(rig: Rig, sink: RecordingSink) -> None:
    refs = [rig.session(sink, tag) for tag in (1, 2, 3)]
    rig.run(StepBlock(sink, [1, 2, 3], refs, [1] * 3, 1, rows(1, 10, 100)))
    marks = of(0, 0, 1, 0, 0, 1)
    rig.run(StepBlock(sink, [1, 2, 3], refs, [2] * 3, 2, rows(*[1] * 6), resets=marks))
    rig.settle()
    assert [sums(sink, tag) for tag in (1, 2, 3)] == [[1, 2, 3], [10, 1, 2], [100, 101, 1]]


def test_blocks_with_and_without_resets_are_admitted_together(
    rig: Rig, sink: RecordingSink
) -> None:
    a, b = rig.session(sink, 1), rig.session(sink, 2)
    for seq in (1, 2, 3):  # three rounds: a block each, of one session and of the other
        rig.engine.submit(block(sink, a, seq, 1, resets=of(seq == 3)))
        rig.engine.submit(block(sink, b, seq, 1, tag=2))
    rig.settle()
    assert (sums(sink, 1), sums(sink, 2)) == ([1, 2, 1], [1, 2, 3])


def test_a_slot_of_the_window_forgets_the_reset_of_an_older_step(sink: RecordingSink) -> None:
    """Step 3 and step 11 stand in one place of the window."""
    rig = Rig(window_steps=8)
    ref = rig.session(sink)
    for seq in range(1, 20):
        rig.run(block(sink, ref, seq, 1, acks=[seq - 1], resets=of(1) if seq == 3 else b""))
    assert sums(sink) == [1, 2, *range(1, 18)]


def test_the_next_session_of_a_row_begins_without_resets(sink: RecordingSink) -> None:
    rig = Rig(slots=1)
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, *[1] * 8, resets=of(*[1] * 8)))
    rig.settle()
    rig.close(ref)
    again = rig.session(sink, 2)
    rig.run(block(sink, again, 1, *[1] * 8, tag=2))
    rig.settle()
    assert sums(sink, 2) == [1, 2, 3, 4, 5, 6, 7, 8]


# -- exactly once


def test_a_repeated_reset_does_not_run_again(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    first = block(sink, ref, 1, 1, 2, 4, resets=of(0, 1, 0))
    rig.run(first)
    rig.settle()
    rig.run(block(sink, ref, 4, 8))
    rig.run(first)
    rig.run(block(sink, ref, 2, 2, 4, 8, 16, resets=of(1, 0, 0, 0)))
    assert sums(sink) == [1, 2, 6, 14, 1, 2, 6, 2, 6, 14, 30]
    assert not sink.refusals


@pytest.mark.parametrize(("flags", "seq"), [(b"", 2), (of(1, 1, 0), 1), (of(0, 1, 1), 3)])
def test_a_reset_that_comes_again_otherwise_is_another_step(
    rig: Rig, sink: RecordingSink, flags: bytes, seq: int
) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2, 4, resets=of(0, 1, 0)))
    rig.settle()
    rig.run(block(sink, ref, 1, 1, 2, 4, resets=flags))
    assert [(at, error.reason) for _, at, error in sink.refusals] == [(seq, "SEQUENCE_REUSED")]
    assert "another reset" in sink.refusals[0][2].message
    rig.run(block(sink, ref, 4, 8))
    assert sums(sink) == [1, 2, 6, 14]


def test_a_reset_that_is_sent_again_before_it_ran_is_known(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 1, 1, resets=of(0, 1)))
    rig.engine.submit(block(sink, ref, 1, 1, 1, resets=of(0, 0)))
    rig.settle()
    assert (sink.reasons, sums(sink)) == (["SEQUENCE_REUSED"], [1, 1])


def test_the_new_part_of_a_repeated_block_has_its_own_resets(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2, resets=of(0, 1)))
    rig.settle()
    rig.run(block(sink, ref, 1, 1, 2, 4, 8, resets=of(0, 1, 0, 1)))
    rig.settle()
    assert sums(sink) == [1, 2, 1, 2, 6, 8]


def test_a_row_that_comes_after_its_session_parked_goes_back_with_its_resets(
    sink: RecordingSink,
) -> None:
    rig = DurableRig()
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.engine._residency.park(ref.row, rig.now)
    rig.rest()
    rig.send(sink, ref, 1, 1, 2, resets=of(0, 1))
    rig.rest()
    assert [returned.resets for _, returned in sink.back] == [of(0, 1)]


# -- what does not run changes nothing


def test_a_batch_that_fails_leaves_the_state_of_before_the_reset(
    rig: Rig, sink: RecordingSink
) -> None:
    ref, other = rig.session(sink), rig.session(sink, 2)
    rig.run(StepBlock(sink, [1, 2], [ref, other], [1, 1], 1, rows(3, 3)))
    bad = rows(RunningSum.poison, 4)
    rig.run(StepBlock(sink, [1, 2], [ref, other], [2, 2], 1, bad, resets=of(1, 1)))
    assert sink.reasons == ["STEP_FAILED"]
    rig.run(block(sink, ref, 2, 1))
    assert (sums(sink, 1), sums(sink, 2)) == ([3, 4], [3, 4])


def test_a_step_that_is_not_finite_leaves_the_state_of_before_the_reset(
    rig: Rig, sink: RecordingSink
) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 3))
    most = float(np.finfo(np.float32).max)
    # The two steps with a reset are finite each from zero, and not one after the other.
    rig.run(block(sink, ref, 2, most, most, resets=of(1, 0)))
    rig.settle()
    assert sink.reasons == ["STEP_NOT_FINITE"]
    rig.run(block(sink, ref, 3, 5, resets=of(1)))
    assert sums(sink) == [3, np.float32(most), 5]
    rig.run(block(sink, ref, 4, most, most, resets=of(0, 1)))
    rig.settle()
    assert sums(sink)[-2:] == [np.float32(most), np.float32(most)]


def test_a_late_step_does_not_reset(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1))
    rig.engine.submit(block(sink, ref, 2, 1, resets=of(1), deadline_s=rig.now - 1))
    rig.settle()
    rig.run(block(sink, ref, 2, 1))
    assert (sink.reasons, sums(sink)) == (["DEADLINE_EXCEEDED"], [1, 2])


def test_a_snapshot_between_has_what_ran(rig: Rig, sink: RecordingSink) -> None:
    """Resets of steps that wait are no part of it; those of kept steps are."""
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2, 4, 8, resets=of(0, 1, 0, 1)))
    rig.engine.submit(block(sink, ref, 5, 16, resets=of(1)))
    export = Export(ref)
    rig.engine.submit(export)
    rig.settle()
    written = export.reply.result(0)[0]
    snapshot = decode(written)
    assert snapshot.resets == tuple(seq for seq in (2, 4) if seq <= snapshot.applied)
    copy = rig.run(Import(written, OpenSpec("t", "copy", Durability.NONE)))[0]
    rig.bind(copy, sink, 2)
    rig.run(block(sink, copy, 1, 1, 2, resets=of(0, 1), tag=2))
    rig.run(block(sink, copy, 1, 1, 2, tag=2))
    assert sums(sink, 2) == [1, 2]
    assert sink.reasons == ["SEQUENCE_REUSED"]


def test_a_fork_goes_on_from_the_state_of_its_original(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2, resets=of(0, 1)))
    rig.settle()
    copy = rig.run(Fork(ref, OpenSpec("t", "copy", Durability.NONE)))[0]
    rig.bind(copy, sink, 2)
    rig.run(Replay(copy, sink, 2))
    rig.run(block(sink, copy, 3, 4, tag=2))
    assert sums(sink, 2) == [1, 2, 6]


# -- the store


def test_resets_are_in_the_store_and_are_not_repeated(sink: RecordingSink) -> None:
    rig = DurableRig()
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2, 4, resets=of(0, 1, 0))
    rig.rest()
    again = rig.restart()
    there, heard = again.resume(), RecordingSink()
    again.attach(there, heard)
    again.send(heard, there, 1, 1, 2, 4, 8, resets=of(0, 1, 0, 0))
    again.rest()
    assert sums(heard) == [1, 2, 6, 14]
    again.send(heard, there, 2, 2)
    again.rest()
    assert heard.reasons == ["SEQUENCE_REUSED"]


def test_a_reset_that_the_store_lacks_is_sent_again(sink: RecordingSink) -> None:
    rig = DurableRig(durable_steps=64)
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.rest()
    rig.send(sink, ref, 3, 4, 8, resets=of(1, 0))
    rig.tick()
    assert sums(sink) == [1, 3, 4, 12]
    again = rig.restart()
    there, heard = again.resume(), RecordingSink()
    again.attach(there, heard)
    again.send(heard, there, 3, 4, 8, resets=of(1, 0))
    again.rest()
    assert sums(heard) == [4, 12]


# -- generations


def test_a_generation_that_resets_is_as_one_in_a_fresh_session() -> None:
    rig = Rig(RunningSum(tokens=True))
    penalty = SamplingSpec(temperature=0.0, repetition_penalty=2.5)
    asked: dict[str, Any] = {"max_tokens": 6, "sampling": penalty}
    used, plain = rig.open(), rig.open()
    generate(rig, used, ids(1, 2, 2, 4), max_tokens=5)
    rig.settle()
    before = generate(rig, used, ids(6, 6, 5), **asked)
    rig.settle()
    after = generate(rig, used, ids(6, 6, 5), reset=True, **asked)
    fresh = generate(rig, plain, ids(6, 6, 5), **asked)
    rig.settle()
    assert after.end is not None
    assert after.end.prompt_tokens == 3  # the token that was drawn last is not fed
    assert before.ids != after.ids == fresh.ids
    recent = rig.engine._rows.tokens.recent
    assert recent[used.row].tolist() == recent[plain.row].tolist()


def test_steps_with_a_reset_count_alone_for_the_repetition_penalty() -> None:
    rig, sink = Rig(RunningSum(tokens=True)), RecordingSink()
    ref = rig.session(sink)
    rig.run(StepBlock(sink, [1], [ref], [1], 3, ids(1, 2, 3).tobytes()))
    rig.run(StepBlock(sink, [1], [ref], [4], 3, ids(4, 5, 6).tobytes(), resets=of(0, 1, 0)))
    rig.settle()
    assert rig.engine._rows.tokens.last(ref.row, 64) == [5, 6]


def test_a_generation_needs_a_prompt_after_a_reset() -> None:
    rig = Rig(RunningSum(tokens=True))
    ref = rig.open()
    generate(rig, ref, ids(3), max_tokens=2)
    rig.settle()
    sink = generate(rig, ref, None, max_tokens=2, reset=True)
    assert sink.error is not None
    assert (sink.error.reason, "prompt" in sink.error.message) == ("FIELD_INVALID", True)
    more = generate(rig, ref, None, max_tokens=2)
    rig.settle()
    assert more.end is not None


def test_opening_tokens_are_fed_again_after_a_reset() -> None:
    rig = Rig(RunningSum(tokens=True))
    ref = rig.open()
    counts = []
    for reset in (False, False, True):
        sink = generate(rig, ref, ids(1, 3, 3), max_tokens=1, opening_tokens=1, reset=reset)
        rig.settle()
        assert sink.end is not None
        counts.append(sink.end.prompt_tokens)
    assert counts == [3, 3, 3]  # the second: the token that was drawn, and two of the prompt
    assert rig.engine._rows.tokens.last(ref.row, 64) == [1, 3, 3]


def test_a_generation_that_has_not_begun_has_not_reset(rig: Rig) -> None:
    rig = Rig(RunningSum(tokens=True))
    ref, sink = rig.open(), RecordingTokens()
    generate(rig, ref, ids(3, 3, 3), max_tokens=1)
    rig.settle()
    spec = GenerateSpec(ids(5), 2, GREEDY, reset=True)
    rig.engine.submit(Generate(ref, spec, sink))
    rig.engine.submit(CancelGenerate(ref, sink))
    rig.settle()
    assert not sink.got
    after = generate(rig, ref, ids(5), max_tokens=1)
    rig.settle()
    assert after.ids == [3]  # which was fed most often
    steps = RecordingSink()
    rig.engine.submit(Generate(ref, spec, sink := RecordingTokens()))
    rig.engine.submit(CancelGenerate(ref, sink))
    rig.engine.submit(Bind(ref, steps, 1))
    applied = int(rig.engine._rows.table.applied[ref.row])
    rig.engine.submit(StepBlock(steps, [1], [ref], [applied + 1], 1, ids(6).tobytes()))
    rig.settle()
    assert steps.steps[0].row[3] > 0


def test_a_generation_longer_than_the_window_resets_once() -> None:
    rig = Rig(RunningSum(tokens=True), window_steps=8)
    ref = rig.open()
    generate(rig, ref, ids(2), max_tokens=1)
    rig.settle()
    sink = generate(rig, ref, ids(3), max_tokens=40, reset=True)
    rig.settle()
    assert sink.ids == [3] * 40
    state = rig.engine._rows.slab.tensors[0][ref.row]
    assert state.tolist() == [0, 0, 0, 40, 0, 0, 0, 0]


@pytest.mark.parametrize("turns", range(7))
def test_a_generation_with_a_reset_is_continued_after_a_crash(turns: int) -> None:
    def asked(there: DurableRig, ref: SessionRef) -> RecordingTokens:
        settings: dict[str, Any] = {"sampling": SamplingSpec(seed=7), "max_tokens": 6}
        return there.generate(ref, [5, 5, 6, 5, 5], first_seq=2, reset=True, **settings)

    def opened() -> tuple[DurableRig, SessionRef, RecordingSink]:
        rig, sink = DurableRig(RunningSum(tokens=True), chunk_steps=2), RecordingSink()
        ref = rig.open_durable(seed=1)
        rig.attach(ref, sink)
        rig.engine.submit(StepBlock(sink, [1], [ref], [1], 1, ids(1).tobytes()))
        rig.rest()
        rig.run(Ack(sink, [ref], [1]))
        return rig, ref, sink

    rig, ref, _ = opened()
    whole = asked(rig, ref)
    rig.rest()
    rig, ref, _ = opened()
    asked(rig, ref)
    for _ in range(turns):
        rig.turn()
    again = rig.restart()
    there = again.resume()
    sink = asked(again, there)
    again.rest()
    assert (sink.error, sink.ids) == (None, whole.ids)
    states = [r.engine._rows.slab.tensors[0][x.row].tolist() for r, x in ((again, there),)]
    assert states[0][1] == whole.ids[:-1].count(1)  # nothing is left of the step before the reset
    other = again.generate(there, [5, 5, 6, 5, 5], first_seq=2, max_tokens=6, reset=False)
    again.rest()
    assert other.error is not None
    assert other.error.reason == "SEQUENCE_REUSED"
