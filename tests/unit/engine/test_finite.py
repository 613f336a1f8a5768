"""A step that would make an output or a state NaN or infinite is refused, and leaves everything as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carousel_models.spec import Output
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Export, Fork, Get, Import, Infer, StepBlock
from carousel_server.core.types import OpenSpec
from carousel_server.rows import snapshot

from .fakes import RecordingSink, RecordingTokens, Rig, RunningSum, State, block, rows
from .test_generation import generate, ids

HUGE = 3e38
"""Twice this is infinite in float32."""


class Hides(RunningSum):
    """Answers 0 whatever its state is, as a layer after an overflow may."""

    def __init__(self) -> None:
        super().__init__()
        self.unseen_states = (0,)

    def step(self, x: Tensor, state: Any, slots: Any = None) -> Any:
        _, after = super().step(x, state, slots)
        return torch.zeros_like(after[0]), after


class Heavy(RunningSum):
    """Counts tokens; token 7 weighs so much that the second one overflows."""

    def __init__(self) -> None:
        super().__init__(tokens=True)

    def step(self, x: Tensor, state: Any, slots: Any = None) -> Any:
        before = state[0] if slots is None else state[0][slots]
        weights = torch.ones(self.vocabulary)
        weights[7] = HUGE
        total = before + torch.nn.functional.one_hot(x, self.vocabulary) * weights
        return total, (total,)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


def applied(rig: Rig, ref: Any) -> int:
    view: Any = rig.run(Get(ref))
    return int(view.applied)


def test_the_step_is_refused_and_the_session_goes_on(rig: Rig, sink: RecordingSink) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, HUGE))
    rig.run(block(sink, ref, 2, HUGE))
    [(tag, seq, error)] = sink.refusals
    assert (tag, seq, error.reason, error.metadata) == (1, 2, "STEP_NOT_FINITE", {"expected": "2"})
    assert (
        error.message
        == "step 2 does not count, because the output has an infinity at place 0 after it"
    )
    assert (applied(rig, ref), rig.metrics.spoilt) == (1, 1)
    rig.run(block(sink, ref, 2, -HUGE))
    rig.run(block(sink, ref, 3, 5))
    assert sink.of(1)[1:] == [(2, [0, 0]), (3, [5, -5])]


def test_neighbours_do_not_notice(sink: RecordingSink) -> None:
    quiet, loud = Rig(slots=40, max_batch=40), Rig(slots=40, max_batch=40)
    told = RecordingSink()
    for rig, heard in ((quiet, sink), (loud, told)):
        refs = [rig.session(heard, tag) for tag in range(30)]
        for seq in (1, 2):
            values = [HUGE if rig is loud and tag % 7 == 3 else 0.1 * tag for tag in range(30)]
            rig.run(StepBlock(heard, list(range(30)), refs, [seq] * 30, 1, rows(*values)))
    assert [(tag, seq) for tag, seq, _ in told.refusals] == [(tag, 2) for tag in (3, 10, 17, 24)]
    for tag in set(range(30)) - {3, 10, 17, 24}:
        assert sink.of(tag) == told.of(tag)
    assert loud.metrics.ticks[-1] == (30, 32, 26)


def test_the_steps_before_it_in_a_chunk_count_and_those_behind_it_do_not(
    rig: Rig, sink: RecordingSink
) -> None:
    ref, other = rig.session(sink), rig.session(sink, 2)
    rig.engine.submit(block(sink, ref, 1, 1, HUGE, HUGE, 4))
    rig.engine.submit(block(sink, other, 1, 1, 2, 3, 4, tag=2))
    rig.settle()
    assert [seq for seq, _ in sink.of(1)] == [1, 2]
    assert [(tag, seq, e.reason) for tag, seq, e in sink.refusals] == [(1, 3, "STEP_NOT_FINITE")]
    assert [row[0] for _, row in sink.of(2)] == [1, 3, 6, 10]
    assert (applied(rig, ref), applied(rig, other)) == (2, 4)
    rig.engine.submit(block(sink, ref, 3, -HUGE, 4))
    rig.settle()
    assert [seq for seq, _ in sink.of(1)] == [1, 2, 3, 4]


def test_shorter_chunks_beside_it_give_their_own_steps_only(rig: Rig, sink: RecordingSink) -> None:
    ref, *others = (rig.session(sink, tag) for tag in range(1, 4))
    shorter = [block(sink, other, 1, 1, 2, tag=tag) for tag, other in enumerate(others, 2)]
    rig.together([block(sink, ref, 1, HUGE, HUGE, 3, 4), *shorter])
    rig.settle()
    assert [[seq for seq, _ in sink.of(tag)] for tag in (1, 2, 3)] == [[1], [1, 2], [1, 2]]
    assert [applied(rig, one) for one in (ref, *others)] == [1, 2, 2]


@pytest.mark.parametrize("chunk_steps", [1, 2, 3, 8])
def test_which_step_is_refused_does_not_depend_on_chunks(
    sink: RecordingSink, chunk_steps: int
) -> None:
    rig = Rig(Hides(), chunk_steps=chunk_steps)
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 1, HUGE, -1, HUGE, -HUGE, 1))
    rig.settle()
    [(_, seq, error)] = sink.refusals
    assert (seq, applied(rig, ref)) == (4, 3)
    assert "state 'sum' has an infinity at place 0" in error.message


def test_numbers_that_are_large_together_are_no_fault(rig: Rig, sink: RecordingSink) -> None:
    refs = [rig.session(sink, tag) for tag in range(1, 6)]
    rig.run(
        StepBlock(
            sink,
            [1, 2, 3, 4, 5],
            refs,
            [1] * 5,
            1,
            b"".join([np.float32([HUGE, HUGE]).tobytes()] * 5),
        )
    )
    assert not sink.refusals
    assert len(sink.steps) == 5


def test_log_probabilities_are_checked_as_they_are_answered(sink: RecordingSink) -> None:
    model = RunningSum()
    model.plain = False
    model.manifest = model.manifest.model_copy(update={"output": Output(transform="log_softmax")})
    rig = Rig(model)
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, HUGE))  # (HUGE, -HUGE): the second one's logarithm is -2 · HUGE
    assert sink.reasons == ["STEP_NOT_FINITE"]


def test_a_state_that_may_be_infinite_is_left_alone(sink: RecordingSink) -> None:
    model = Hides()
    model.unseen_states = ()
    model.state_specs = (State("sum", (2,), torch.float32, finite=False),)
    rig = Rig(model)
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, HUGE, HUGE, HUGE))
    rig.settle()
    assert not sink.refusals
    copy, _ = rig.run(Fork(ref, OpenSpec("t", "copy")))
    assert applied(rig, copy) == 3


# -- generation


def test_a_generation_ends_with_the_error_and_the_session_keeps_its_state() -> None:
    rig = Rig(Heavy())
    ref = rig.open()
    heard = generate(rig, ref, ids(1, 7))
    rig.settle()
    assert heard.error is not None
    assert (heard.error.reason, heard.ids) == ("STEP_NOT_FINITE", [7])
    assert heard.error.message.startswith("step 3 does not count")
    assert (applied(rig, ref), rig.metrics.spoilt) == (2, 1)
    sink = RecordingSink()
    rig.bind(ref, sink)
    tokens = np.asarray([2], "<i4").tobytes()
    rig.run(StepBlock(sink, [1], [ref], [3], 1, tokens))
    assert np.isfinite(sink.steps[0].row).all()


@pytest.mark.parametrize("chunk_steps", [1, 2, 3, 8])
@pytest.mark.parametrize("company", [True, False])
def test_a_prompt_ends_at_the_same_step_in_any_chunks(chunk_steps: int, company: bool) -> None:
    rig = Rig(Heavy(), chunk_steps=chunk_steps)
    ref, sink = rig.open(), RecordingSink()
    if company:
        other = rig.session(sink)
        tokens = np.arange(6, dtype="<i4").tobytes()
        rig.engine.submit(StepBlock(sink, [1], [other], [1], 6, tokens))
    heard = generate(rig, ref, ids(1, 7, 2, 3, 7, 4))
    rig.settle()
    assert heard.error is not None
    assert heard.error.message.startswith("step 5 does not count")
    assert applied(rig, ref) == 4
    assert len(sink.steps) == 6 * company


def test_the_same_request_again_meets_the_same_refusal() -> None:
    rig = Rig(Heavy())
    ref = rig.open()
    first = generate(rig, ref, ids(1, 7), first_seq=1)
    rig.settle()
    again = generate(rig, ref, ids(1, 7), first_seq=1)
    rig.settle()
    for heard in (first, again):
        assert heard.ids == [7]
        assert heard.error is not None
        assert heard.error.reason == "STEP_NOT_FINITE"


def test_a_generation_without_a_session_ends_with_the_error() -> None:
    rig = Rig(Heavy())
    heard: RecordingTokens = generate(rig, rig.open(), ids(7, 7), close_after=True)
    rig.settle()
    assert heard.error is not None
    assert heard.error.reason == "STEP_NOT_FINITE"
    assert not rig.engine._rows.slots.used


# -- whole sequences


@pytest.mark.parametrize("causal", [True, False])
def test_a_whole_sequence_is_refused_alone(causal: bool) -> None:
    rig = Rig(RunningSum(causal=causal))
    good, bad = Infer(rows(*[1.0] * 8)), Infer(rows(1, 2, 3, 4, 5, HUGE, HUGE))
    for call in (good, bad):
        rig.engine.submit(call)
    rig.settle()
    with pytest.raises(CarouselError, match="step 7 of the sequence") as caught:
        bad.reply.result(0)
    assert (caught.value.reason, caught.value.field) == ("STEP_NOT_FINITE", "inputs")
    assert good.reply.result(0).view("<f4")[:, 0].tolist() == list(range(1, 9))
    assert (rig.metrics.sequences, rig.metrics.spoilt) == (1, 1)
    assert rig.engine.idle


# -- snapshots


@pytest.mark.parametrize(
    ("value", "kind"), [(np.nan, "state"), (-np.inf, "state"), (np.inf, "kept")]
)
def test_a_snapshot_that_is_not_finite_is_refused(
    rig: Rig, sink: RecordingSink, value: float, kind: str
) -> None:
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2))
    data, _ = rig.run(Export(ref))
    taken = snapshot.decode(data)
    if kind == "state":
        bad = replace(taken, state={"sum": np.asarray([1, value], "<f4")})
        named = "state 'sum' holds"
    else:
        outputs = np.asarray([[1, -1], [value, 3]], "<f4").view(np.uint8)
        bad, named = replace(taken, kept_outputs=outputs), "kept output 'y' holds"
    rig.run(Import(data, OpenSpec("t", "good")))
    with pytest.raises(CarouselError, match=named) as caught:
        rig.run(Import(snapshot.encode(bad), OpenSpec("t", "bad")))
    assert caught.value.reason == "SNAPSHOT_INVALID"


@pytest.mark.parametrize(
    ("bits", "good"), [(0x7F7F, True), (0x7F80, False), (0xFFC0, False), (0x8000, True)]
)
def test_states_of_bfloat16_are_read_as_numbers(bits: int, good: bool) -> None:
    model = RunningSum()
    model.state_specs = (State("sum", (2,), torch.bfloat16),)
    rig = Rig(model)
    data, _ = rig.run(Export(rig.open()))
    taken = replace(snapshot.decode(data), state={"sum": np.asarray([0, bits], "<u2")})
    command = Import(snapshot.encode(taken), OpenSpec("t", "copy"))
    if good:
        rig.run(command)
        return
    with pytest.raises(CarouselError, match="state 'sum' holds"):
        rig.run(command)
