"""Generations of a model with an encoder and a decoder: whose tokens are fed, drawn, shown and remembered."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from carousel_models import RecurrentModel
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import CancelGenerate, Export, Import, StepBlock
from carousel_server.core.types import Durability, FinishReason, OpenSpec, SamplingSpec
from carousel_server.rows.snapshot import decode, encode

from .durable_rig import DurableRig
from .fakes import RecordingSink, Rig
from .stages import MOST, START, STOP, A, B, Translator
from .test_generation import GREEDY, generate, ids

PROMPTS = [list(prompt) for length in (1, 2, 3) for prompt in product(range(A), repeat=length)]


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator()


@pytest.fixture(scope="module", params=["cpu", "reference"])
def model(request: pytest.FixtureRequest, translator: Translator) -> RecurrentModel:
    return translator.model(request.param)


@pytest.fixture
def rig(model: RecurrentModel) -> Rig:
    return Rig(model)


def test_texts_are_those_of_the_equations(rig: Rig, translator: Translator) -> None:
    """In batches where some rows encode and others decode. Some texts end with `stop`, others at `most`."""
    reasons = set()
    for first in range(0, len(PROMPTS), 8):
        prompts = PROMPTS[first : first + 8]
        refs = [rig.open() for _ in prompts]
        sinks = [
            generate(rig, ref, ids(*prompt), max_tokens=MOST, close_after=True)
            for ref, prompt in zip(refs, prompts, strict=True)
        ]
        rig.settle()
        for prompt, sink in zip(prompts, sinks, strict=True):
            said = translator.greedy(prompt)
            assert sink.ids == said, prompt
            assert sink.end is not None
            stopped = len(said) < MOST
            assert sink.end.reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
            assert sink.end.prompt_tokens == len(prompt) + 1, "with the token that starts"
            assert sink.end.generated_tokens == len(said) + stopped
            reasons.add(sink.end.reason)
    assert len(reasons) == 2


def test_a_prompt_starts_over_and_none_goes_on(rig: Rig, translator: Translator) -> None:
    ref = rig.open()
    prompt = next(p for p in PROMPTS if len(translator.greedy(p)) > 6)
    for _ in range(2):
        first = generate(rig, ref, ids(*prompt), max_tokens=3)
        rig.settle()
        rest = generate(rig, ref, None, max_tokens=MOST - 3)
        rig.settle()
        assert first.ids + rest.ids == translator.greedy(prompt)


def test_steps_of_the_client_are_a_prompt_for_the_decoder(rig: Rig, translator: Translator) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    rig.run(StepBlock(sink, [1], [ref], [1], 2, ids(3, 1).tobytes()))
    rig.settle()
    assert [row for _, row in sink.of(1)] == [[0.0] * B] * 2
    found = generate(rig, ref, None, max_tokens=MOST)
    rig.settle()
    assert found.ids == translator.greedy([3, 1])


def test_a_client_can_feed_both_stages_itself(rig: Rig, translator: Translator) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    said = translator.greedy([4])
    fed = ids(4, A + START, *(A + token for token in said[:4]))
    rig.run(StepBlock(sink, [1], [ref], [1], len(fed), fed.tobytes()))
    rig.settle()
    rows = [row for _, row in sink.of(1)]
    assert [int(np.argmax(row)) for row in rows[1:]] == [*said, STOP][:5]


@pytest.mark.parametrize("token", [-1, A + B])
def test_a_token_of_no_stage_is_refused(rig: Rig, token: int) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    rig.run(StepBlock(sink, [1], [ref], [1], 1, ids(token).tobytes()))
    assert sink.reasons == ["UNKNOWN_TOKEN"]
    assert f"0 … {A + B - 1}" in str(sink.refusals[0][2])


def test_the_penalty_counts_tokens_of_the_decoder(rig: Rig, translator: Translator) -> None:
    """Not those of the prompt, whose numbers mean something else."""
    different = 0
    for prompt in PROMPTS[:20]:
        sampling = SamplingSpec(temperature=0.0, repetition_penalty=4.0)
        sink = generate(
            rig, rig.open(), ids(*prompt), max_tokens=MOST, sampling=sampling, close_after=True
        )
        rig.settle()
        assert sink.ids == translator.greedy(prompt, penalty=4.0)
        different += sink.ids != translator.greedy(prompt)
    assert different, "it has an effect"


def test_a_seed_repeats_a_sampled_text_and_alternatives_are_the_decoder_s(rig: Rig) -> None:
    def text(seed: int) -> list[Any]:
        sampling = SamplingSpec(temperature=3.0, top_k=6, top_p=0.99, seed=seed)
        sink = generate(
            rig,
            rig.open(),
            ids(2, 0),
            max_tokens=MOST,
            sampling=sampling,
            logprobs=3,
            close_after=True,
        )
        rig.settle()
        return [(token.id, token.alternatives) for token in sink.got]

    texts = [text(seed) for seed in range(8)]
    assert [text(seed) for seed in range(8)] == texts
    assert len({tuple(token for token, _ in one) for one in texts}) > 2
    seen = {
        token
        for one in texts
        for token, others in one
        for token in (token, *(i for i, _ in others))
    }
    assert seen <= set(range(B))
    assert max(seen) >= A, "ids that no token of the encoder has"


@pytest.mark.parametrize("after", range(8))
def test_a_generation_that_was_cut_off_goes_on_in_the_same_way(
    after: int, model: RecurrentModel, translator: Translator
) -> None:
    prompt = next(p for p in PROMPTS if len(p) == 3 and len(translator.greedy(p)) > 6)
    rig = Rig(model, chunk_steps=1)
    ref = rig.open()
    cut = generate(rig, ref, ids(*prompt), max_tokens=MOST, first_seq=1)
    for _ in range(after):
        rig.tick()
    rig.run(CancelGenerate(ref, cut))
    again = generate(rig, ref, ids(*prompt), max_tokens=MOST, first_seq=1)
    rig.settle()
    assert again.ids == translator.greedy(prompt)
    assert again.ids[: len(cut.ids)] == cut.ids


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("after", [1, 3, 5, 7, 9])
def test_a_killed_server_s_generation_goes_on_in_the_next(
    after: int, second: bool, model: RecurrentModel, translator: Translator
) -> None:
    """Also one that began with a reset, because it is not the session's first."""
    prompt = next(p for p in PROMPTS if len(p) == 3 and len(translator.greedy(p)) > 6)
    rig = DurableRig(model, chunk_steps=1)
    ref = rig.open_durable(durability=Durability.SYNC)
    base = 0
    if second:
        first = generate(rig, ref, ids(4, 4), max_tokens=2)
        rig.rest()
        assert first.end is not None
        base = first.end.applied
    cut = generate(rig, ref, ids(*prompt), max_tokens=MOST, first_seq=base + 1)
    for _ in range(after):
        rig.turn()
    rig = rig.restart()
    found = rig.resume()
    again = generate(rig, found, ids(*prompt), max_tokens=MOST, first_seq=base + 1)
    rig.rest()
    assert again.ids == translator.greedy(prompt)
    assert again.ids[: len(cut.ids)] == cut.ids


def test_a_snapshot_keeps_the_tokens_of_both_stages(rig: Rig, translator: Translator) -> None:
    prompt = next(p for p in PROMPTS if len(translator.greedy(p)) > 6)
    ref = rig.open()
    first = generate(rig, ref, ids(*prompt), max_tokens=3)
    rig.settle()
    data = rig.run(Export(ref))[0]
    snapshot = decode(data)
    assert snapshot.next_token == A + first.ids[-1]
    assert snapshot.recent_tokens == (*prompt, A + START, *(A + t for t in first.ids[:-1]))
    assert snapshot.generation is not None
    assert snapshot.generation.ids.tolist() == first.ids
    copy = rig.run(Import(data, OpenSpec("t", "copy")))[0]
    rest = generate(rig, copy, None, max_tokens=MOST - 3)
    rig.settle()
    assert first.ids + rest.ids == translator.greedy(prompt)

    drawn = replace(snapshot.generation, ids=snapshot.generation.ids + B)
    for damaged in ({"next_token": A + B}, {"recent_tokens": (A + B,)}, {"generation": drawn}):
        with pytest.raises(CarouselError) as refused:
            rig.run(Import(encode(replace(snapshot, **damaged)), OpenSpec("t", "damaged")))
        assert refused.value.reason == "SNAPSHOT_INVALID"


def test_a_stop_token_is_the_decoder_s(rig: Rig, translator: Translator) -> None:
    prompt = next(p for p in PROMPTS if len(set(translator.greedy(p))) > 2)
    said = translator.greedy(prompt)
    stop = said[2]
    sink = generate(
        rig, rig.open(), ids(*prompt), max_tokens=MOST, stop_tokens=(stop,), sampling=GREEDY
    )
    rig.settle()
    assert sink.ids == said[: said.index(stop)]
