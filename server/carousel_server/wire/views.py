"""Value types of the core to messages of the protocol."""

from __future__ import annotations

from typing import cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from carousel_protos.tensors import DATA_TYPES
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import GeneratedToken, ModelView, SessionView, TensorField


def duration_of(seconds: float) -> Duration:
    """Seconds as a Duration, to the nanosecond."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def session_message(view: SessionView) -> pb.Session:
    """A session as its owner sees it."""
    created_at = Timestamp()
    created_at.FromNanoseconds(int(view.created_at_unix_s * 1e9))
    return pb.Session(
        id=view.id,
        model=view.model,
        phase=cast("pb.Phase.ValueType", int(view.phase)),
        applied=view.applied,
        ack=view.ack,
        durable=view.durable,
        epoch=view.epoch,
        durability=cast("pb.Durability.ValueType", int(view.durability)),
        idle_ttl=duration_of(view.idle_ttl_s),
        created_at=created_at,
        fingerprint=view.fingerprint,
        window_steps=view.window_steps,
        seed=view.seed,
        execution_class=view.execution_class,
    )


def model_message(view: ModelView) -> pb.Model:
    """A model as clients need to know it."""
    return pb.Model(
        name=view.name,
        fingerprint=view.fingerprint,
        description=view.description,
        cell=view.cell,
        layers=view.layers,
        hidden=view.hidden,
        input=_tensor_message(view.input),
        outputs=[_tensor_message(field) for field in view.outputs],
        causal=view.causal,
        vocabulary=view.vocabulary,
        generative=view.generative,
        tokenizer=view.tokenizer,
        labels=view.labels,
        parameters=view.parameters,
        state_bytes=view.state_bytes,
        compute_dtype=view.compute_dtype,
        window_steps=view.window_steps,
        max_sequence_steps=view.max_sequence_steps,
    )


def token_message(token: GeneratedToken) -> pb.Token:
    """One generated token."""
    return pb.Token(
        id=token.id,
        text=token.text,
        seq=token.seq,
        logprob=token.logprob,
        alternatives=[pb.Alternative(id=id_, logprob=p) for id_, p in token.alternatives],
    )


def _tensor_message(field: TensorField) -> pb.TensorSpec:
    return pb.TensorSpec(name=field.name, dtype=DATA_TYPES[field.dtype], shape=field.shape)
