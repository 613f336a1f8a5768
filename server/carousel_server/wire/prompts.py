"""What a Generate request asks for: prompt, sampling and ends, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from google.protobuf.message import Message

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import EnginePort
from carousel_server.core.types import GenerateSpec, Int32s, SamplingSpec

from .errors import invalid
from .fields import MAX_SEQ
from .infer import check_steps, check_text

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 256
MAX_LOGPROBS = 32


async def generate_spec(
    engine: EnginePort, request: pb.GenerateRequest, max_tokens: int, deadline_s: float
) -> GenerateSpec:
    """What the caller asks for, with a text prompt turned into tokens.

    Raises:
        CarouselError: FIELD_INVALID, MODEL_NOT_GENERATIVE, TEXT_UNAVAILABLE, UNKNOWN_TOKEN or
            SEQUENCE_TOO_LONG.
    """
    if not engine.model.generative:
        raise CarouselError(
            "MODEL_NOT_GENERATIVE", f"model {engine.model.name!r} cannot feed its outputs back"
        )
    if not 1 <= request.max_tokens <= max_tokens:
        raise invalid("max_tokens", f"must be from 1 to {max_tokens}, but is {request.max_tokens}")
    if request.first_seq > MAX_SEQ:
        raise invalid("first_seq", f"must be at most {MAX_SEQ}")
    if len(request.stop) > MAX_STOPS:
        raise invalid("stop", f"must be at most {MAX_STOPS} texts")
    if not all(0 < len(text) <= MAX_STOP_CHARACTERS for text in request.stop):
        raise invalid("stop", f"each must have 1 to {MAX_STOP_CHARACTERS} characters")
    _check_stop_tokens(request.stop_tokens, engine.model.drawn_tokens)
    logprobs = request.logprobs if request.HasField("logprobs") else None
    if logprobs is not None and logprobs > MAX_LOGPROBS:
        raise invalid("logprobs", f"must be at most {MAX_LOGPROBS}, but is {logprobs}")
    prompt, opening_tokens = await _prompt(engine, request)
    decoder = engine.model.decoder
    most = max_tokens if decoder is None else decoder.most
    return GenerateSpec(
        prompt=prompt,
        max_tokens=min(request.max_tokens, most),
        sampling=sampling_spec(request.sampling),
        stop=tuple(request.stop),
        stop_tokens=tuple(request.stop_tokens),
        logprobs=logprobs,
        first_seq=request.first_seq,
        deadline_s=deadline_s,
        opening_tokens=opening_tokens,
        reset=request.reset,
    )


def sampling_spec(sampling: pb.Sampling) -> SamplingSpec:
    """How tokens are drawn.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    # What the message leaves out has the default of the value type. Fields without presence are always set.
    message: Message = sampling
    absent = {
        field.name
        for field in message.DESCRIPTOR.fields
        if field.has_presence and not message.HasField(field.name)
    }
    given = {field.name for field in fields(SamplingSpec)} - absent
    spec = SamplingSpec(**{name: getattr(sampling, name) for name in given})
    if not 0.0 <= spec.temperature <= 100.0:
        raise invalid("sampling.temperature", f"must be from 0 to 100, but is {spec.temperature:g}")
    if not 0.0 < spec.top_p <= 1.0:
        raise invalid("sampling.top_p", f"must be above 0 and at most 1, but is {spec.top_p:g}")
    penalty = spec.repetition_penalty
    if not (math.isfinite(penalty) and 0.0 < penalty <= 100.0):
        raise invalid(
            "sampling.repetition_penalty", f"must be above 0 and at most 100, but is {penalty:g}"
        )
    if spec.top_k > np.iinfo(np.int32).max:
        raise invalid("sampling.top_k", f"must fit 31 bits, but is {spec.top_k}")
    return spec


def _check_stop_tokens(stop_tokens: Sequence[int], vocabulary: int) -> None:
    if len(stop_tokens) > MAX_STOP_TOKENS:
        raise invalid("stop_tokens", f"must be at most {MAX_STOP_TOKENS}")
    if not all(0 <= token < vocabulary for token in stop_tokens):
        raise invalid("stop_tokens", f"must each be from 0 to {vocabulary - 1}")


async def _prompt(engine: EnginePort, request: pb.GenerateRequest) -> tuple[Int32s | None, int]:
    """The tokens of the prompt, and how many of them open a text."""
    opening_tokens = 0
    match request.WhichOneof("prompt"):
        case "text":
            if not engine.model.tokenizer:
                raise CarouselError(
                    "TEXT_UNAVAILABLE", f"model {engine.model.name!r} names no tokenizer"
                )
            check_text(engine.model, request.text)
            ids, opening_tokens = await engine.encode_prompt(request.text)
            prompt = ids.astype(np.int32)
        case "tokens":
            check_steps(engine.model, len(request.tokens.ids))  # before anybody copies them
            prompt = np.array(request.tokens.ids, np.int32)
        case _:
            return None, 0
    check_steps(engine.model, len(prompt))
    if prompt.min() < 0 or prompt.max() >= engine.model.vocabulary:
        raise CarouselError(
            "UNKNOWN_TOKEN",
            f"a token of the prompt is outside 0 … {engine.model.vocabulary - 1}",
            field="tokens",
        )
    return prompt, opening_tokens
