"""Value types of the core to messages of the protocol."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from carousel_protos.states import STATE_TYPES
from carousel_protos.tensors import DATA_TYPES
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import (
    GeneratedToken,
    ModelView,
    SessionView,
    StateBytes,
    StateField,
    TensorField,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def _shared(view: type[DataclassInstance], message: type[Message], *apart: str) -> tuple[str, ...]:
    """Fields that a message has under the view's own names, and as the view has them."""
    named = message.DESCRIPTOR.fields_by_name
    return tuple(f.name for f in fields(view) if f.name in named and f.name not in apart)


_SESSION = _shared(SessionView, pb.Session)
_MODEL = _shared(ModelView, pb.Model, "input", "outputs", "states", "signal", "decoder")


def duration_of(seconds: float) -> Duration:
    """Seconds as a Duration, to the nanosecond."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def session_message(view: SessionView) -> pb.Session:
    """A session as its owner sees it."""
    created_at = Timestamp()
    created_at.FromNanoseconds(int(view.created_at_unix_s * 1e9))
    plain = {name: getattr(view, name) for name in _SESSION}
    return pb.Session(**plain, idle_ttl=duration_of(view.idle_ttl_s), created_at=created_at)


def model_message(view: ModelView) -> pb.Model:
    """A model as clients need to know it."""
    plain = {name: getattr(view, name) for name in _MODEL}
    return pb.Model(
        **plain,
        resets=True,
        input=_tensor_message(view.input),
        outputs=[_tensor_message(field) for field in view.outputs],
        states=[state_spec(field) for field in view.states],
        signal=None if view.signal is None else pb.Signal(**view.signal._asdict()),
        decoder=None if view.decoder is None else pb.Decoder(**view.decoder._asdict()),
    )


def state_spec(field: StateField) -> pb.TensorSpec:
    """Name, type and shape of a state."""
    return pb.TensorSpec(name=field.name, dtype=STATE_TYPES[field.dtype].wire, shape=field.shape)


def state_messages(view: ModelView, state: StateBytes) -> list[pb.StateTensor]:
    """All states of a session, in the model's order."""
    pairs = zip(view.states, state, strict=True)
    return [pb.StateTensor(spec=state_spec(field), data=data) for field, (_, data) in pairs]


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
