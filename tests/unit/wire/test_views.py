"""What a client is told of a model, a session and a token: every field, from the server's view to the SDK."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from carousel import types as sdk
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import (
    DecoderView,
    Durability,
    GeneratedToken,
    ModelView,
    Phase,
    SamplingSpec,
    SessionView,
    Signal,
    StateField,
    TensorField,
)
from carousel_server.wire.prompts import sampling_spec
from carousel_server.wire.views import model_message, session_message, token_message

SESSION = SessionView(
    id="s", model="m", phase=Phase.RESIDENT, applied=5, ack=3, durable=4, epoch=2,
    durability=Durability.ASYNC, idle_ttl_s=60.0, created_at_unix_s=100.0, fingerprint="f",
    window_steps=8, seed=9, execution_class="cpu",
)  # fmt: skip
OTHER_SESSION: dict[str, Any] = {
    "id": "t",
    "model": "n",
    "phase": Phase.PARKED,
    "applied": 6,
    "ack": 4,
    "durable": 5,
    "epoch": 3,
    "durability": Durability.SYNC_FSYNC,
    "idle_ttl_s": 61.5,
    "created_at_unix_s": 101.0,
    "fingerprint": "g",
    "window_steps": 9,
    "seed": 2**64 - 1,
    "execution_class": "cuda",
    "initial": "anna",
    "holder": "10.0.0.7:50051",
}
ROW = TensorField("x", "<f4", (4,))
MODEL = ModelView(
    name="m", fingerprint="f", description="d", cell="gru", layers=1, hidden=2, input=ROW,
    outputs=(ROW,), causal=True, vocabulary=0, generative=False, tokenizer="", labels=(),
    parameters=7, state_bytes=8, compute_dtype="float32", window_steps=9, max_sequence_steps=10,
)  # fmt: skip
OTHER_MODEL: dict[str, Any] = {
    "name": "n",
    "fingerprint": "g",
    "description": "e",
    "cell": "lstm",
    "layers": 2,
    "hidden": 3,
    "input": TensorField("x", "<i4", ()),
    "outputs": (ROW, ROW),
    "causal": False,
    "vocabulary": 256,
    "generative": True,
    "tokenizer": "bytes",
    "labels": ("a", "b"),
    "parameters": 17,
    "state_bytes": 18,
    "compute_dtype": "bfloat16",
    "window_steps": 19,
    "max_sequence_steps": 20,
    "states": (StateField("0.h", "bfloat16", (3, 2)), StateField("n", "int64", ())),
    "initials": ("anna", "otto"),
    "signal": Signal(128, 16000, True, 384),
    "decoder": DecoderView(7, 1, 2, 20),
}
OF_THE_SERVER = {
    "execution_class", "triton_input", "triton_outputs", "input_row_bytes", "output_row_bytes",
    "input_tokens", "drawn_tokens", "first_drawn",
}  # fmt: skip
"""Fields of a model that its message does not have."""

TOKEN = GeneratedToken(1, "a", 2, None, ())
OTHER_TOKEN: dict[str, Any] = {
    "id": 3,
    "text": "b",
    "seq": 4,
    "logprob": 0.0,
    "alternatives": ((5, -0.5), (6, -1.0)),
}
SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.25,
    "repetition_penalty": 1.5,
    "seed": 0,
}


def named(kind: type[Any]) -> set[str]:
    return {field.name for field in fields(kind)}


def test_every_field_is_varied_below() -> None:
    assert set(OTHER_SESSION) == named(SessionView) - {"whole"}  # which the message does not have
    assert set(OTHER_MODEL) == named(ModelView) - OF_THE_SERVER == named(sdk.ModelInfo)
    assert set(OTHER_TOKEN) == named(GeneratedToken) == named(sdk.Token)
    assert set(SAMPLING) == named(SamplingSpec)
    assert set(SAMPLING) <= set(sdk.GenerateOptions.__annotations__)


def test_every_field_of_a_message_is_filled() -> None:
    """Presence of a default cannot be seen, so all values differ from it."""
    session = session_message(replace(SESSION, **OTHER_SESSION))
    model = model_message(replace(MODEL, **(OTHER_MODEL | {"causal": True})))
    token = token_message(replace(TOKEN, **(OTHER_TOKEN | {"logprob": -1.0})))
    for message in (session, model, token):
        filled = {field.name for field, _ in message.ListFields()}
        assert filled == set(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("name", OTHER_SESSION)
def test_every_field_of_a_session_reaches_the_client(name: str) -> None:
    view = replace(SESSION, **{name: OTHER_SESSION[name]})
    before, told = (sdk.SessionInfo.of(session_message(each)) for each in (SESSION, view))
    changed = {
        field for field in named(sdk.SessionInfo) if getattr(told, field) != getattr(before, field)
    }
    assert changed == {name.removesuffix("_unix_s")}
    special = {
        "phase": sdk.Phase.PARKED,
        "durability": sdk.Durability.SYNC_FSYNC,
        "created_at_unix_s": datetime.fromtimestamp(101, UTC),
    }
    assert getattr(told, name.removesuffix("_unix_s")) == special.get(name, OTHER_SESSION[name])


@pytest.mark.parametrize("name", OTHER_MODEL)
def test_every_field_of_a_model_reaches_the_client(name: str) -> None:
    view = replace(MODEL, **{name: OTHER_MODEL[name]})
    before, told = (sdk.ModelInfo.of(model_message(each)) for each in (MODEL, view))
    changed = {
        field for field in named(sdk.ModelInfo) if getattr(told, field) != getattr(before, field)
    }
    assert changed == {name}
    tensor = sdk.TensorInfo("x", "<f4", (4,))
    states = (sdk.TensorInfo("0.h", "bfloat16", (3, 2)), sdk.TensorInfo("n", "<i8", ()))
    special = {
        "input": sdk.TensorInfo("x", "<i4", ()),
        "outputs": (tensor, tensor),
        "states": states,
        "signal": sdk.SignalInfo(128, 16000, True, 384),
        "decoder": sdk.DecoderInfo(7, 1, 2, 20),
    }
    assert getattr(told, name) == special.get(name, OTHER_MODEL[name])


@pytest.mark.parametrize("name", OTHER_TOKEN)
def test_every_field_of_a_token_reaches_the_client(name: str) -> None:
    token = replace(TOKEN, **{name: OTHER_TOKEN[name]})
    told = sdk.Token.of(token_message(token))
    alternatives = tuple(sdk.Alternative(*each) for each in token.alternatives)
    assert told == sdk.Token(token.id, token.text, token.seq, token.logprob, alternatives)


@pytest.mark.parametrize("name", SAMPLING)
def test_every_option_of_sampling_is_read(name: str) -> None:
    message = pb.Sampling(**{name: SAMPLING[name]})
    assert sampling_spec(message) == SamplingSpec(**{name: SAMPLING[name]})


def test_sampling_that_says_nothing_has_the_defaults() -> None:
    assert sampling_spec(pb.Sampling()) == SamplingSpec()
    assert sampling_spec(pb.Sampling(temperature=0.0)).temperature == 0.0
