"""Initial and given states of requests, checked before an engine gets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from carousel_protos.states import decode_state, type_name
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import ModelView, StateBytes, StateField

from .views import state_spec

_MOST_NAMED = 20


def check_initial(model: ModelView, name: str, field: str = "initial") -> str:
    """The name of an initial state; "" is the default.

    Raises:
        CarouselError: INITIAL_UNKNOWN.
    """
    if name and name not in model.initials:
        raise unknown_initial(model, name, field)
    return name


def unknown_initial(model: ModelView, name: str, field: str) -> CarouselError:
    """The error for a name that the model does not have. It lists those that it has."""
    names = [*model.initials[:_MOST_NAMED], *(["…"] if len(model.initials) > _MOST_NAMED else [])]
    known = ", ".join(names) or "the default alone"
    return CarouselError(
        "INITIAL_UNKNOWN",
        f"model {model.name!r} has no initial state {name[:64]!r}; it has {known}",
        metadata={"model": model.name, "known": ",".join(model.initials[:_MOST_NAMED])},
        field=field,
    )


def given_state(model: ModelView, tensors: Sequence[pb.StateTensor]) -> StateBytes:
    """The states that a caller gives, which is some or all of the model's.

    Raises:
        CarouselError: STATE_INVALID; it names the state.
    """
    return tuple(_checked(model, tensors))


def _checked(model: ModelView, tensors: Sequence[pb.StateTensor]) -> Iterator[tuple[str, bytes]]:
    left = {field.name: field for field in model.states}
    for tensor in tensors:
        name = tensor.spec.name
        state = left.pop(name, None)
        if state is None:
            known = ", ".join(field.name for field in model.states) or "none"
            raise _invalid(
                model,
                f"there is no state {name[:64]!r}, or it is given twice; the model has {known}",
            )
        _check(model, state, tensor)
        yield name, tensor.data


def _check(model: ModelView, state: StateField, tensor: pb.StateTensor) -> None:
    expected = state_spec(state)
    if tensor.spec != expected:
        message = f"state {state.name!r} is {_shown(expected)}, not {_shown(tensor.spec)}"
        raise _invalid(model, message)
    try:
        numbers = decode_state(tensor)
    except ValueError as error:
        raise _invalid(model, str(error)) from None
    if state.finite and not np.isfinite(numbers).all():
        raise _invalid(model, f"state {state.name!r} holds a NaN or an infinity")
    if state.dtype == "bool" and (numbers.view(np.uint8) > 1).any():
        raise _invalid(model, f"state {state.name!r} holds bytes that are neither 0 nor 1")


def _shown(spec: pb.TensorSpec) -> str:
    try:
        kind = type_name(spec)
    except ValueError:
        kind = f"of type {spec.dtype}"
    return f"{kind}{list(spec.shape)}"


def _invalid(model: ModelView, message: str) -> CarouselError:
    metadata = {"model": model.name}
    return CarouselError("STATE_INVALID", message, metadata=metadata, field="state")
