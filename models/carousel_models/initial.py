"""Initial states: from a user's arguments to a package's tensors, and from these to states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cells import State
from .errors import PackageError
from .spec import Architecture
from .stack import StateSpec
from .states import WHOLE, InitialState, StateDeclaration

InitialValue = Tensor | np.ndarray | float | Sequence[Any]
"""A tensor, an array or a number."""

Initial = InitialValue | tuple[InitialValue, ...] | Mapping[str, InitialValue]
"""What `save` takes for one initial state: values by the names of states, or in torch's order."""

Tensors = dict[str, Tensor]


def convert_initial(
    states: Sequence[StateDeclaration],
    initial: Initial | None,
    named: Mapping[str, Initial],
) -> tuple[tuple[InitialState, ...], Tensors]:
    """The manifest's initial states, and their tensors as a package stores them.

    Args:
        states: of the model.
        initial: of sessions that choose none. See `save`.
        named: those that a client can choose.

    Raises:
        PackageError: a value does not fit its state.
    """
    given = ([] if initial is None else [("", initial)]) + list(named.items())
    if "" in named:
        raise PackageError("initials holds a state without a name; give that one as initial=")
    if given and not states:
        raise PackageError(
            "a model that is not causal has no sessions, and its layers begin with zeros; save it without an "
            "initial state"
        )
    found, tensors = [], Tensors()
    for name, values in given:
        where = f"initials[{name!r}]" if name else "initial"
        stored = _by_state(states, values, where)
        one = InitialState(name=name, stored=tuple(stored))
        tensors |= {one.key(state): value for state, value in stored.items()}
        found.append(one)
    return tuple(found), tensors


def initial_states(
    architecture: Architecture,
    specs: Sequence[StateSpec],
    tensors: Mapping[str, Tensor],
    device: torch.device,
) -> dict[str, tuple[Tensor, ...]]:
    """The initial states of a model by name: one tensor of a state's own shape for each spec.

    The first is that of sessions which choose none, with the name "".
    """
    stored = {one.name: one for one in architecture.initial}

    def state(name: str, otherwise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        one = stored.get(name, InitialState(name=name, stored=()))
        own = {spec: tensors[one.key(spec)] for spec in one.stored}
        return {**otherwise, **own}

    numbers = {
        spec.name: torch.full(spec.shape, spec.number, dtype=spec.dtype, device=device)
        for spec in specs
    }
    default = state("", numbers)
    names = ("", *architecture.initial_names)
    return {name: tuple(state(name, default).values()) for name in names}


def rows_of(state: State, batch: int) -> State:
    """A state of one session as the same state of many, [batch, *shape] each."""
    return tuple(tensor.repeat(batch, *(1 for _ in tensor.shape)) for tensor in state)


def _by_state(states: Sequence[StateDeclaration], values: Initial, where: str) -> Tensors:
    """The tensors of one initial state by the names of the states, in the manifest's order."""
    if not isinstance(values, Mapping):
        values = _in_order(states, values, where)
    known = {state.name: state for state in states}
    if unknown := [name for name in values if name not in known]:
        raise PackageError(
            f"{where} names a state {unknown[0]!r}, which the model does not have; it has {', '.join(known)}"
        )
    return {
        state.name: _converted(values[state.name], state, f"{where}[{state.name!r}]")
        for state in states
        if state.name in values
    }


def _in_order(states: Sequence[StateDeclaration], values: Any, where: str) -> Tensors:
    """Values in torch's order, such as (h0, c0) of [layers, 1, width] each, by the names of the states.

    The layers of a built-in stack share a value, whose first dimension counts them.
    """
    groups: dict[str, list[StateDeclaration]] = {}
    for state in states:
        layer, _, kind = state.name.rpartition(".")
        groups.setdefault(kind if layer.isdecimal() else state.name, []).append(state)
    parts = values if isinstance(values, tuple) else (values,)
    if len(parts) > len(groups):
        raise PackageError(
            f"{where} has {len(parts)} parts, but the model has the states {', '.join(groups)}; give one "
            "value of each, or values by name"
        )
    found: Tensors = {}
    for (kind, group), part in zip(groups.items(), parts, strict=False):
        rows = _tensor(part, f"{where}, {kind}")
        shapes = {state.shape for state in group}
        if len(shapes) > 1:
            raise PackageError(
                f"{where} holds one tensor for the states {', '.join(s.name for s in group)}, whose shapes "
                "differ; give values by name"
            )
        rows = _split(rows, len(group), group[0].shape, f"{where}, {kind},")
        found |= {state.name: row for state, row in zip(group, rows, strict=True)}
    return found


def _split(value: Tensor, layers: int, shape: tuple[int, ...], what: str) -> Tensor:
    """[layers, *shape] of a value that may have a batch of one, and no layers where there is one."""
    fitting = [(layers, 1, *shape), (layers, *shape)]
    fitting += [shape, (1, 1, *shape)] if layers == 1 else []
    if tuple(value.shape) not in fitting:
        raise PackageError(f"{what} has shape {list(value.shape)}; give {list(fitting[0])}")
    return value.reshape(layers, *shape)


def _converted(value: InitialValue, state: StateDeclaration, what: str) -> Tensor:
    """A value in the shape and type of its state, which must hold it."""
    given = _tensor(value, what)
    if given.dim() and tuple(given.shape) not in (state.shape, (1, *state.shape)):
        raise PackageError(f"{what} has shape {list(given.shape)}; give {list(state.shape)}")
    dtype = getattr(torch, state.dtype)
    given = given.expand(state.shape) if not given.dim() else given.reshape(state.shape)
    if given.is_complex() and not dtype.is_complex:
        raise PackageError(f"{what} is complex, but the state is {state.dtype}; give real numbers")
    found = given.to(dtype).clone(memory_format=torch.contiguous_format)
    if state.dtype in WHOLE and not bool((found.to(given.dtype) == given).all()):
        raise PackageError(f"{what} holds numbers that a state of {state.dtype} cannot have")
    if bool(found.isnan().any()) or (state.finite and not bool(found.isfinite().all())):
        raise PackageError(
            f"{what} holds NaN, infinity or numbers too large for {state.dtype}; give finite ones"
        )
    return found


def _tensor(value: InitialValue, what: str) -> Tensor:
    """A value on the CPU.

    Raises:
        PackageError: it has no numbers, or none that a tensor can have.
    """
    if isinstance(value, Tensor):
        if value.is_meta:
            raise PackageError(f"{what} is on the meta device and has no numbers; load it first")
        return value.detach().cpu().to_dense()
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise PackageError(f"{what} cannot become a tensor: {error}; give numbers") from error
