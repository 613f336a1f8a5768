"""The tensors of a package: names, shapes and types, from the architecture alone. No torch."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from .cell_facts import Weight
from .decoder_spec import DECODER
from .errors import PackageError
from .layer_weights import Weights, below, layer_weights, row_weights
from .spec import MAX_PARAMETERS, Architecture, TokensInput


class TensorInfo(NamedTuple):
    """Shape and type, such as "float32", of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str


def expected_tensors(architecture: Architecture) -> dict[str, TensorInfo]:
    """All tensors of `model.safetensors`, except those of a custom module.

    Weights of products have the model's type. Biases, norms and other weights are always float32. Initial
    states have the types of the states. Names of a decoder's begin with "decoder.".

    Raises:
        PackageError: the model would have more than MAX_PARAMETERS parameters.
    """
    weights = _of_stage(architecture)
    if architecture.decoding is not None:
        weights |= below(DECODER, _of_stage(architecture.decoding))
    parameters = sum(prod(weight.shape) for weight in weights.values())
    if parameters > MAX_PARAMETERS:
        raise PackageError(
            f"the manifest asks for {parameters:,} parameters, more than the limit of "
            f"{MAX_PARAMETERS:,}; choose smaller sizes"
        )
    infos = {
        name: TensorInfo(shape, architecture.dtype if product else "float32")
        for name, (shape, product) in weights.items()
    }
    return infos | initial_tensors(architecture)


def _of_stage(architecture: Architecture) -> Weights:
    weights = _front(architecture)
    weights |= below("stack", layer_weights(architecture.stack, architecture.stack_input_width))
    head = architecture.head
    weights |= below("head", row_weights(head.parts, architecture.stack_width, head.places))
    for one in architecture.placed:
        weights |= below(f"parts.{one.part.name}", one.part.weights(one.entering))
    return weights


def initial_tensors(architecture: Architecture) -> dict[str, TensorInfo]:
    """The stored tensors of initial states."""
    states = {state.name: TensorInfo(state.shape, state.dtype) for state in architecture.states}
    return {one.key(name): states[name] for one in architecture.initial for name in one.stored}


def _front(architecture: Architecture) -> Weights:
    source = architecture.input
    weights: Weights = {}
    if isinstance(source, TokensInput):
        weights["embedding.weight"] = Weight((source.vocabulary, source.embedding), product=True)
    front = row_weights(source.parts, source.raw_width)
    if source.projection is None:
        return weights | below("front", front)
    return weights | {f"projection.{name.removeprefix('0.')}": w for name, w in front.items()}
