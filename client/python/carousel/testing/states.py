"""The states of the fake server's models: one array or number, or several in a dict by name."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from carousel_protos.states import STATE_TYPES, Array, decode_state
from carousel_protos.v1 import carousel_pb2 as pb

from .refusals import Refusal

ONLY = "state"
"""The name of a state that is no dict."""

_WIRE = {kind.bits: kind.wire for name, kind in STATE_TYPES.items() if name != "bfloat16"}


class Beginning(Protocol):
    """What a model says of the beginning of a session."""

    @property
    def initial(self) -> Any:
        """The state of sessions that choose none."""

    @property
    def initials(self) -> Mapping[str, Any]:
        """States that a client can choose."""


def arrays_of(state: Any) -> dict[str, Array]:
    """A state as arrays by name."""
    named = state if isinstance(state, dict) else {ONLY: state}
    return {name: _array_of(value) for name, value in named.items()}


def _array_of(value: Any) -> Array:
    """A state as an array. One of any other Python objects becomes an array that no client can read."""
    try:
        return np.asarray(value)
    except ValueError:  # such as a tuple of a number and a list
        return np.empty((), object)


def specs_of(state: Any) -> list[pb.TensorSpec]:
    """What the protocol's Model says of a state."""
    return [
        pb.TensorSpec(name=name, dtype=_WIRE[array.dtype.str], shape=array.shape)
        for name, array in arrays_of(state).items()
        if array.dtype.str in _WIRE
    ]


def tensors_of(state: Any) -> list[pb.StateTensor]:
    """A state as GetState gives it."""
    arrays = arrays_of(state)
    return [pb.StateTensor(spec=spec, data=arrays[spec.name].tobytes()) for spec in specs_of(state)]


def begun(model: Beginning, name: str = "", given: Iterable[pb.StateTensor] = ()) -> Any:
    """A copy of an initial state, with what the client gives in its place. Raises Refusal."""
    if name and name not in model.initials:
        raise Refusal("INITIAL_UNKNOWN", known=",".join(model.initials))
    initial = model.initials[name] if name else model.initial
    state = copy.deepcopy(initial)
    known = {spec.name: spec for spec in specs_of(initial)}
    for tensor in given:
        if tensor.spec != known.get(tensor.spec.name):
            raise Refusal("STATE_INVALID", f"state {tensor.spec.name!r} is not the model's")
        try:
            array = decode_state(tensor).copy()
        except ValueError as error:
            raise Refusal("STATE_INVALID", str(error)) from None
        if not np.isfinite(array).all():
            raise Refusal("STATE_INVALID", f"state {tensor.spec.name!r} holds a NaN or an infinity")
        if isinstance(state, dict):
            state[tensor.spec.name] = array[()]
        else:
            state = array[()]
    return state
