"""Generation: prompt in chunks, tokens drawn by each session's own rules, stops, going on later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from carousel_models.tokenizer import BytesTokenizer
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import CancelGenerate, Export, Generate, Import, StepBlock
from carousel_server.core.types import (
    FinishReason,
    GenerateSpec,
    OpenSpec,
    SamplingSpec,
    SessionRef,
)

from .fakes import VOCABULARY, RecordingSink, RecordingTokens, Rig, RunningSum

GREEDY = SamplingSpec(temperature=0.0)


def ids(*tokens: int) -> np.ndarray:
    return np.asarray(tokens, np.int32)


@pytest.fixture
def rig() -> Rig:
    return Rig(RunningSum(tokens=True))


def generate(
    rig: Rig, ref: SessionRef, prompt: Any, *, close_after: bool = False, **spec: Any
) -> RecordingTokens:
    sink = RecordingTokens()
    settings = {"max_tokens": 4, "sampling": GREEDY} | spec
    rig.engine.submit(Generate(ref, GenerateSpec(prompt, **settings), sink, close_after))
    rig.tick()
    return sink


def test_greedy_feeds_the_most_frequent_token_back(rig: Rig) -> None:
    ref = rig.open()
    sink = generate(rig, ref, ids(3, 5, 5))
    rig.settle()
    assert sink.ids == [5, 5, 5, 5]
    assert [token.seq for token in sink.got] == [3, 4, 5, 6]
    assert sink.end is not None
    assert (sink.end.reason, sink.end.prompt_tokens, sink.end.generated_tokens) == (
        FinishReason.LENGTH,
        3,
        4,
    )
    assert sink.end.applied == 6


def test_a_long_prompt_goes_in_chunks_and_others_step_meanwhile(rig: Rig) -> None:
    steps = RecordingSink()
    fed = rig.session(steps)
    sink = generate(rig, rig.open(), ids(*[2] * 10), max_tokens=1)
    rig.run(StepBlock(steps, [1], [fed], [1], 1, ids(1).tobytes()))
    assert steps.of(1)
    assert not sink.done
    rig.settle()
    assert sink.ids == [2]
    assert [steps for _, _, steps in rig.metrics.ticks] == [4, 5, 2]


def test_a_later_call_goes_on_where_the_first_one_stopped(rig: Rig) -> None:
    whole, parts = rig.open(seed=1), rig.open(seed=1)
    sampling = SamplingSpec()
    one = generate(rig, whole, ids(3), max_tokens=8, sampling=sampling)
    rig.settle()
    first = generate(rig, parts, ids(3), max_tokens=3, sampling=sampling)
    rig.settle()
    second = generate(rig, parts, None, max_tokens=5, sampling=sampling)
    rig.settle()
    assert first.ids + second.ids == one.ids
    assert [t.seq for t in first.got + second.got] == [t.seq for t in one.got]


def test_a_seed_repeats_a_text_whatever_else_is_generated(rig: Rig) -> None:
    def text(neighbours: int) -> list[int]:
        refs = [rig.open() for _ in range(neighbours + 1)]
        for ref in refs[1:]:
            generate(rig, ref, ids(1), max_tokens=20, sampling=SamplingSpec(), close_after=True)
        sink = generate(
            rig, refs[0], ids(1), max_tokens=20, sampling=SamplingSpec(seed=7), close_after=True
        )
        rig.settle()
        return sink.ids

    alone = text(0)
    assert len(set(alone)) > 1
    assert text(3) == alone
    assert text(7) == alone


def test_the_sessions_seed_is_the_default(rig: Rig) -> None:
    def text(**spec: Any) -> list[int]:
        ref = rig.open(**spec)
        sink = generate(rig, ref, ids(1), max_tokens=30, sampling=SamplingSpec(), close_after=True)
        rig.settle()
        return sink.ids

    assert text(seed=5) == text(seed=5)
    assert text(seed=5) != text(seed=6)
    # One seed in ten leads to the same few tokens, so two texts may be equal by chance.
    assert len({tuple(text()) for _ in range(8)}) > 1


def test_a_stop_token_ends_it_and_is_not_shown(rig: Rig) -> None:
    sink = generate(rig, rig.open(), ids(3), stop_tokens=(3,))
    assert sink.ids == []
    assert sink.end is not None
    assert sink.end.reason is FinishReason.STOP


def test_a_stop_text_ends_it_and_is_not_shown() -> None:
    rig = Rig(RunningSum(tokens=True, tokenizer=Letters()))
    sink = generate(rig, rig.open(), "cc", max_tokens=9, stop=("ccc",))
    rig.settle()
    assert sink.got == []
    assert sink.end is not None
    assert (sink.end.reason, sink.end.generated_tokens) == (FinishReason.STOP, 3)


def test_text_goes_in_and_comes_out() -> None:
    rig = Rig(RunningSum(tokens=True, tokenizer=Letters()))
    sink = generate(rig, rig.open(), "abb", max_tokens=3)
    rig.settle()
    assert "".join(token.text for token in sink.got) == "bbb"


def test_a_character_that_never_came_whole_is_text_of_the_last_token() -> None:
    """Not of the end, which a session with a store may hear later: the token would be named again."""
    rig = Rig(RunningSum(tokens=True, tokenizer=Beginnings()))
    sink = generate(rig, rig.open(), ids(3, 3, 0), max_tokens=2, close_after=True)
    rig.settle()
    assert [token.text for token in sink.got] == ["", "\ufffd\ufffd"]
    assert sink.end is not None
    assert sink.end.text == ""


def test_logprobs_are_those_of_the_model(rig: Rig) -> None:
    sink = generate(
        rig, rig.open(), ids(3), max_tokens=1, logprobs=2, sampling=SamplingSpec(temperature=0.1)
    )
    logits = np.zeros(VOCABULARY)
    logits[3] = 1
    expected = logits - np.log(np.exp(logits).sum())
    [token] = sink.got
    assert token.logprob == pytest.approx(expected[token.id], abs=1e-6)
    assert token.alternatives[0] == (3, pytest.approx(expected[3], abs=1e-6))
    assert len(token.alternatives) == 2


def test_logprobs_only_for_those_who_asked(rig: Rig) -> None:
    with_, without = (rig.open() for _ in range(2))
    a = generate(rig, with_, ids(3), max_tokens=2, logprobs=0)
    b = generate(rig, without, ids(3), max_tokens=2)
    rig.settle()
    assert all(token.logprob is not None and not token.alternatives for token in a.got)
    assert all(token.logprob is None for token in b.got)


def test_the_repetition_penalty_looks_back(rig: Rig) -> None:
    plain = generate(rig, rig.open(), ids(3, 5, 5), max_tokens=1)
    penalised = generate(
        rig,
        rig.open(),
        ids(3, 5, 5),
        max_tokens=1,
        sampling=SamplingSpec(temperature=0.0, repetition_penalty=float("inf")),
    )
    rig.settle()
    assert plain.ids == [5]
    assert penalised.ids[0] not in (3, 5)


def test_a_generating_session_takes_no_steps_and_no_second_generation(rig: Rig) -> None:
    steps = RecordingSink()
    ref = rig.session(steps)
    first = generate(rig, ref, ids(1), max_tokens=50)
    rig.run(StepBlock(steps, [1], [ref], [2], 1, ids(1).tobytes()))
    assert steps.reasons == ["SESSION_BUSY"]
    second = generate(rig, ref, ids(1))
    assert second.error is not None
    assert second.error.reason == "SESSION_BUSY"
    rig.settle()
    assert len(first.ids) == 50


def test_steps_and_generation_share_a_session_in_turn(rig: Rig) -> None:
    steps = RecordingSink()
    ref = rig.session(steps)
    rig.run(StepBlock(steps, [1], [ref], [1], 2, ids(4, 4).tobytes()))
    sink = generate(rig, ref, ids(1), max_tokens=2)
    rig.settle()
    assert sink.ids == [4, 4]
    assert sink.end is not None
    assert sink.end.applied == 4
    rig.run(StepBlock(steps, [1], [ref], [5], 1, ids(6).tobytes()))
    assert steps.steps[-1].seq == 5
    assert steps.steps[-1].row.tolist() == [0, 1, 0, 0, 3, 0, 1, 0]


def test_without_a_prompt_a_fresh_session_has_nothing_to_feed(rig: Rig) -> None:
    sink = generate(rig, rig.open(), None)
    assert sink.error is not None
    assert (sink.error.reason, sink.error.field) == ("FIELD_INVALID", "prompt")


def test_cancelling_frees_the_session_and_keeps_its_state(rig: Rig) -> None:
    ref = rig.open()
    sink = generate(rig, ref, ids(1), max_tokens=100)
    rig.tick()
    rig.run(CancelGenerate(ref, sink))
    shown = len(sink.ids)
    rig.settle()
    assert len(sink.ids) == shown
    assert not sink.done
    again = generate(rig, ref, None, max_tokens=2)
    rig.settle()
    assert again.got[0].seq == sink.got[-1].seq + 1


def test_only_its_own_sink_can_cancel_a_generation(rig: Rig) -> None:
    ref = rig.open()
    sink = generate(rig, ref, ids(1), max_tokens=5)
    rig.run(CancelGenerate(ref, RecordingTokens()))
    rig.settle()
    assert len(sink.ids) == 5


def test_a_session_of_its_own_is_closed_at_the_end(rig: Rig) -> None:
    for spec in ({"max_tokens": 2}, {"max_tokens": 2, "first_seq": 9}):
        generate(rig, rig.open(), ids(1), close_after=True, **spec)
        rig.settle()
    ref = rig.open()
    sink = generate(rig, ref, ids(1), close_after=True, max_tokens=99)
    rig.run(CancelGenerate(ref, sink))
    assert rig.engine._rows.slots.used == 0
    assert rig.metrics.ends == ["closed"] * 3


@pytest.mark.parametrize(
    ("first_seq", "reason"),
    [(9, "SEQUENCE_GAP"), (2, "OUTPUT_FORGOTTEN"), (1, "SEQUENCE_REUSED")],
)
def test_first_seq_must_be_next(rig: Rig, first_seq: int, reason: str) -> None:
    ref = rig.open()
    generate(rig, ref, ids(1, 2), max_tokens=1)
    rig.settle()
    sink = generate(rig, ref, ids(1), first_seq=first_seq)
    assert sink.error is not None
    assert sink.error.reason == reason


def test_a_generation_past_its_deadline_ends(rig: Rig) -> None:
    sink = generate(rig, rig.open(), ids(1), max_tokens=100, deadline_s=rig.now + 1)
    rig.now += 2
    rig.tick()
    assert sink.error is not None
    assert sink.error.reason == "DEADLINE_EXCEEDED"


def test_a_closed_session_tells_its_generation(rig: Rig) -> None:
    ref = rig.open()
    sink = generate(rig, ref, ids(1), max_tokens=100)
    rig.close(ref)
    assert sink.error is not None
    assert sink.error.reason == "SESSION_CLOSED"


def test_a_snapshot_goes_on_with_the_same_tokens(rig: Rig) -> None:
    sampling = SamplingSpec(repetition_penalty=1.2)
    ref = rig.open(seed=3)
    generate(rig, ref, ids(1, 2, 3), max_tokens=5, sampling=sampling)
    rig.settle()
    data, _ = rig.run(Export(ref))
    copy = rig.run(Import(data, OpenSpec("t", "")))[0]
    a = generate(rig, ref, None, max_tokens=20, sampling=sampling)
    b = generate(rig, copy, None, max_tokens=20, sampling=sampling)
    rig.settle()
    assert a.ids == b.ids
    assert [t.seq for t in a.got] == [t.seq for t in b.got]


def test_export_waits_for_no_generation(rig: Rig) -> None:
    ref = rig.open()
    generate(rig, ref, ids(1), max_tokens=100)
    with pytest.raises(CarouselError, match="SESSION_BUSY"):
        rig.run(Export(ref))


def test_more_alternatives_than_tokens_are_all_tokens(rig: Rig) -> None:
    sink = generate(rig, rig.open(), ids(3), max_tokens=1, logprobs=99)
    assert len(sink.got[0].alternatives) == VOCABULARY


def test_a_generation_late_on_arrival_is_refused(rig: Rig) -> None:
    sink = generate(rig, rig.open(), ids(1), deadline_s=rig.now - 1)
    assert sink.got == []
    assert sink.error is not None
    assert sink.error.reason == "DEADLINE_EXCEEDED"


def test_the_client_who_feeds_decides_what_comes_next(rig: Rig) -> None:
    steps = RecordingSink()
    ref = rig.session(steps)
    generate(rig, ref, ids(3), max_tokens=2)
    rig.settle()
    applied = int(rig.engine._rows.table.applied[ref.row])
    rig.run(StepBlock(steps, [1], [ref], [applied + 1], 1, ids(6).tobytes()))
    sink = generate(rig, ref, ids(6), max_tokens=1)
    rig.settle()
    assert sink.end is not None
    assert sink.end.prompt_tokens == 1


def test_the_repetition_penalty_sees_what_the_client_fed(rig: Rig) -> None:
    steps = RecordingSink()
    ref = rig.session(steps)
    rig.run(StepBlock(steps, [1], [ref], [1], 3, ids(5, 5, 3).tobytes()))
    sampling = SamplingSpec(temperature=0.0, repetition_penalty=float("inf"))
    sink = generate(rig, ref, ids(3), max_tokens=1, sampling=sampling)
    rig.settle()
    assert sink.ids[0] not in (3, 5)


def test_a_defect_in_drawing_costs_only_the_generations(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise IndexError("a defect")

    steps = RecordingSink()
    fed = rig.session(steps)
    with monkeypatch.context() as patch:
        patch.setattr("carousel_server.engine.sampling.sample", broken)
        sink = generate(rig, rig.open(), ids(1))
    assert sink.error is not None
    assert sink.error.reason == "INTERNAL"
    rig.run(StepBlock(steps, [1], [fed], [1], 1, ids(1).tobytes()))
    assert len(steps.steps) == 1


def test_text_without_a_tokenizer_is_refused_at_the_door(rig: Rig) -> None:
    with pytest.raises(CarouselError, match="TEXT_UNAVAILABLE"):
        generate(rig, rig.open(), "text")


class Letters(BytesTokenizer):
    """a is 1, b is 2, …: the bytes tokenizer, small enough for the fake's vocabulary."""

    shift = 96

    def encode(self, text: str) -> np.ndarray:
        return super().encode(text) - self.shift

    def decoder(self, before: Sequence[int] = ()) -> Any:
        shift = self.shift
        inner = super().decoder([token + shift for token in before])

        class Shifted:
            def push(self, token: int) -> str:
                return inner.push(token + shift)

            def flush(self) -> str:
                return inner.flush()

        return Shifted()


class Beginnings(Letters):
    """Every token is the first byte of a character of two."""

    shift = 0xC1
