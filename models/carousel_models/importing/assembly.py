"""Makes parts of a manifest and tensors from a chain of operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from carousel_models.errors import PackageError
from carousel_models.package import explain
from carousel_models.row_parts import DEFAULT_EPS
from carousel_models.spec import (
    FeaturesInput,
    LayerSpec,
    Normalization,
    Output,
    Projection,
    TokensInput,
)
from carousel_models.states import InitialState

from .folding import folded
from .ops import Activate, Array, Chain, Linear, Norm, Op, Recur, Skip, ToOutput
from .rows import CUSTOM, head_of, named, row_parts

Arrays = dict[str, Array]


@dataclass(slots=True)
class _Layer:
    """A recurrent layer with the operations around it."""

    recur: Recur
    before: tuple[Op, ...] = ()
    between: tuple[Op, ...] = ()
    residual: bool = False
    after: list[Op] = field(default_factory=list)


def assemble(chain: Chain) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields of the manifest (input, stack, head, output), and all tensors in float32.

    Raises:
        PackageError: a manifest cannot describe the chain. The message names the operation.
    """
    try:
        return _assembled(folded(chain))
    except ValidationError as error:
        raise PackageError(
            f"these layers do not make a model: {explain(error)}; save the model with a custom module"
        ) from None


def _assembled(chain: Chain) -> tuple[dict[str, Any], dict[str, Tensor]]:
    ops, output = _without_transform(list(chain.ops))
    front, layers = _divided(ops)
    back, layers[-1].after = layers[-1].after, []
    back = _norm_of_the_last_layer(layers[-1], back)
    head, arrays = head_of(back)
    source, found = _input(chain, front, layers[0])
    arrays |= found
    specs = []
    for number, layer in enumerate(layers):
        spec, found = _layer(f"stack.{number}", layer)
        specs.append(spec)
        arrays |= found
    parts: dict[str, Any] = {"input": source, "stack": tuple(specs), "head": head, "output": output}
    initial = _initial([layer.recur for layer in layers])
    if initial:
        one = InitialState(stored=tuple(initial))
        parts["initial"] = (one,)
        arrays |= {one.key(state): value for state, value in initial.items()}
    tensors = {name: torch.tensor(np.asarray(value, np.float32)) for name, value in arrays.items()}
    return parts, tensors


def _initial(layers: list[Recur]) -> Arrays:
    """What the states begin with that begin with other numbers than 0, by their names in the model."""
    found = {
        f"{number}.{name}": value
        for number, recur in enumerate(layers)
        for name, value in recur.initial.items()
    }
    if found and any(recur.backward or len(recur.directions) == 2 for recur in layers):
        raise PackageError(
            "a layer begins with other numbers than 0, and a model that runs backwards in time begins with "
            "zeros; train it so, or run both directions yourself"
        )
    return found


def _without_transform(ops: list[Op]) -> tuple[list[Op], Output]:
    """The operations without the last one, if that is a transform of the output."""
    last = ops[-1] if ops else None
    sigmoid = isinstance(last, Activate) and last.name == "sigmoid"
    if isinstance(last, ToOutput | Activate) and (isinstance(last, ToOutput) or sigmoid):
        name: Any = last.name
        return ops[:-1], Output(transform=name)
    return ops, Output()


def _divided(ops: list[Op]) -> tuple[list[Op], list[_Layer]]:
    """The operations before the first recurrent layer, and the layers with those after each."""
    front: list[Op] = []
    layers: list[_Layer] = []
    for op in ops:
        layer = _layer_of(op)
        if layer is not None:
            layers.append(layer)
        elif layers:
            layers[-1].after.append(op)
        else:
            front.append(op)
    if not layers:
        raise PackageError("the model has no recurrent layer; Carousel serves models with a state")
    return front, layers


def _layer_of(op: Op) -> _Layer | None:
    """The layer that an operation is, or that a skip goes around."""
    if isinstance(op, Recur):
        return _Layer(op)
    if not isinstance(op, Skip):
        return None
    places = [place for place, inner in enumerate(op.ops) if _layer_of(inner) is not None]
    if not places:
        return None
    (place, *more) = places
    recur = op.ops[place]
    if more or not isinstance(recur, Recur):
        raise PackageError(
            f"a residual goes around {len(places)} recurrent layers and more residuals, and a manifest has "
            f"it around one layer; {CUSTOM}"
        )
    return _Layer(recur, op.ops[:place], op.ops[place + 1 :], residual=True)


def _norm_of_the_last_layer(layer: _Layer, back: list[Op]) -> list[Op]:
    """Moves a norm directly behind the last layer from the head to the layer."""
    if back and _is_own_norm(back[0]):
        layer.after = back[:1]
        return back[1:]
    return back


def _is_own_norm(op: Op) -> bool:
    """True for the norm that a layer has as `layer_norm`."""
    full = isinstance(op, Norm) and op.weight is not None and op.bias is not None
    return full and isinstance(op, Norm) and op.kind == "layer" and op.eps == DEFAULT_EPS


def _input(
    chain: Chain, front: list[Op], first: _Layer
) -> tuple[TokensInput | FeaturesInput, Arrays]:
    arrays: Arrays = {}
    way: dict[str, Any] = {}
    if len(front) == 1 and isinstance(front[0], Linear):
        linear = front[0]
        arrays |= named("projection", linear)
        way["projection"] = Projection(width=len(linear.weight), bias=linear.bias is not None)
    elif front:
        way["front"], found = row_parts(front, "front")
        arrays |= found
    if chain.embedding is not None:
        arrays["embedding.weight"] = chain.embedding
        vocabulary, size = chain.embedding.shape
        return TokensInput(vocabulary=vocabulary, embedding=size, **way), arrays
    if chain.normalization is not None:
        mean, std = (
            tuple(map(float, np.asarray(part, np.float32))) for part in chain.normalization
        )
        way["normalization"] = Normalization(mean=mean, std=std)
    return FeaturesInput(width=_width(front, first, chain), **way), arrays


def _width(front: list[Op], first: _Layer, chain: Chain) -> int:
    """Width of the features: that of the first operation that fixes it."""
    if chain.normalization is not None:
        return len(chain.normalization[0])
    for op in _flat([*front, *first.before]):
        if isinstance(op, Linear):
            return int(op.weight.shape[1])
    return int(first.recur.directions[0].weight_ih.shape[1])


def _flat(ops: list[Op]) -> list[Op]:
    return [
        inner for op in ops for inner in (_flat(list(op.ops)) if isinstance(op, Skip) else [op])
    ]


def _layer(prefix: str, layer: _Layer) -> tuple[LayerSpec, Arrays]:
    after = layer.after
    arrays: Arrays = {}
    own_norm = bool(after) and _is_own_norm(after[0])
    if own_norm:
        arrays |= named(f"{prefix}.norm", after[0])
        after = after[1:]
    chains = {"before": layer.before, "between": layer.between, "after": after}
    parts: dict[str, Any] = {}
    for place, ops in chains.items():
        parts[place], found = row_parts(ops, f"{prefix}.{place}")
        arrays |= found
    recur = layer.recur
    names = ("backward",) if recur.backward else ("forward", "backward")
    for name, direction in zip(names, recur.directions, strict=False):
        arrays |= named(f"{prefix}.{name}", direction)
    first = recur.directions[0]
    spec = LayerSpec(
        cell=recur.cell,  # type: ignore[arg-type]
        hidden=recur.hidden,
        bias=first.bias_ih is not None,
        bidirectional=len(recur.directions) == 2,
        backward=recur.backward,
        options={} if first.peepholes is None else {"peepholes": True},
        proj_size=0 if first.weight_hr is None else len(first.weight_hr),
        residual=layer.residual,
        layer_norm=own_norm,
        **parts,
    )
    return spec, arrays
