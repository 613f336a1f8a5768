"""A digest tells one request for a generation from another; snapshots hold it, so it never changes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel_server.core.types import GenerateSpec, SamplingSpec
from carousel_server.engine.requests import digest_of

PROMPT = np.array([1, 2, 3], np.int32)
SPEC = GenerateSpec(PROMPT, max_tokens=5)

COUNTS: dict[str, Any] = {
    "max_tokens": 6,
    "stop": ("end",),
    "stop_tokens": (4,),
    "logprobs": 0,
    "reset": True,
}
DOES_NOT_COUNT: dict[str, Any] = {
    "prompt": np.array([9], np.int32),  # its ids count, which are given beside the spec
    "opening_tokens": 1,
    "first_seq": 7,
    "deadline_s": 1.5,
}
SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.25,
    "repetition_penalty": 1.5,
    "seed": 0,
}


def former(spec: GenerateSpec, prompt: np.ndarray) -> str:
    """The form that snapshots have held from the start."""
    sampling = spec.sampling
    parts = (
        spec.max_tokens,
        (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty),
        (sampling.seed, spec.stop, spec.stop_tokens, spec.logprobs),
    )
    return blake2b(prompt.tobytes() + repr(parts).encode(), digest_size=16).hexdigest()


def test_every_field_is_varied_below() -> None:
    assert {*COUNTS, *DOES_NOT_COUNT, "sampling"} == {field.name for field in fields(GenerateSpec)}
    assert set(SAMPLING) == {field.name for field in fields(SamplingSpec)}


@pytest.mark.parametrize("name", COUNTS)
def test_another_option_is_another_request(name: str) -> None:
    other = replace(SPEC, **{name: COUNTS[name]})
    assert digest_of(other, PROMPT) != digest_of(SPEC, PROMPT)


@pytest.mark.parametrize("name", SAMPLING)
def test_another_sampling_is_another_request(name: str) -> None:
    other = replace(SPEC, sampling=replace(SPEC.sampling, **{name: SAMPLING[name]}))
    assert digest_of(other, PROMPT) != digest_of(SPEC, PROMPT)


@pytest.mark.parametrize("name", DOES_NOT_COUNT)
def test_what_belongs_to_the_call_does_not_count(name: str) -> None:
    other = replace(SPEC, **{name: DOES_NOT_COUNT[name]})
    assert digest_of(other, PROMPT) == digest_of(SPEC, PROMPT)


def test_another_prompt_is_another_request() -> None:
    assert digest_of(SPEC, PROMPT[:2]) != digest_of(SPEC, PROMPT)


def test_digests_that_snapshots_hold_stay_right() -> None:
    assert digest_of(SPEC, PROMPT) == "6055626f18326c0737bfb377e362460e"
    everything = replace(SPEC, sampling=SamplingSpec(**SAMPLING), **COUNTS)
    first_options = replace(everything, reset=False)
    assert digest_of(first_options, PROMPT) == "031c277da1c12e0ab8f6975d5b57b3e8"
    assert digest_of(everything, PROMPT) == "b280ff3db87b43d03184b928dc527b79"


@given(
    st.builds(
        GenerateSpec,
        prompt=st.none(),
        max_tokens=st.integers(1, 1 << 31),
        sampling=st.builds(
            SamplingSpec,
            temperature=st.floats(0, 10),
            top_k=st.integers(0, 99),
            top_p=st.floats(0, 1),
            repetition_penalty=st.floats(0.1, 9),
            seed=st.none() | st.integers(0, 2**64 - 1),
        ),
        stop=st.lists(st.text(max_size=4), max_size=3).map(tuple),
        stop_tokens=st.lists(st.integers(0, 99), max_size=3).map(tuple),
        logprobs=st.none() | st.integers(0, 9),
    )
)
def test_the_form_of_the_first_options_stays(spec: GenerateSpec) -> None:
    assert digest_of(spec, PROMPT) == former(spec, PROMPT)


@dataclass(frozen=True, slots=True)
class LaterSampling(SamplingSpec):
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class LaterSpec(GenerateSpec):
    forbidden: tuple[int, ...] = ()


def test_a_new_option_counts_where_it_is_given() -> None:
    at_defaults = LaterSpec(PROMPT, 5, LaterSampling())
    assert digest_of(at_defaults, PROMPT) == digest_of(SPEC, PROMPT)
    others = [
        digest_of(replace(at_defaults, forbidden=(1,)), PROMPT),
        digest_of(replace(at_defaults, sampling=LaterSampling(min_p=0.5)), PROMPT),
        digest_of(LaterSpec(PROMPT, 5, LaterSampling(min_p=0.5), forbidden=(1,)), PROMPT),
    ]
    assert len({digest_of(SPEC, PROMPT), *others}) == 4
