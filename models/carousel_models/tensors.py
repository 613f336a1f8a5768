"""The tensors of a package: names, shapes and types, from the architecture alone. No torch.

Layout of a layer's matrices is torch's: rows are gate blocks, i f g o for lstm, r z n for both grus.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from .cell_facts import Weight, facts_of
from .errors import PackageError
from .row_parts import Shapes, leaves, shapes_of
from .spec import MAX_PARAMETERS, Architecture, LayerSpec, TokensInput


class TensorInfo(NamedTuple):
    """Shape and type, such as "float32", of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str


def directions(layer: LayerSpec) -> tuple[str, ...]:
    """Names of a layer's directions, as they appear in tensor names."""
    return ("forward", "backward") if layer.bidirectional else ("forward",)


def expected_tensors(architecture: Architecture) -> dict[str, TensorInfo]:
    """All tensors of `model.safetensors`, except those of a custom module.

    Weights of products have the model's type. Biases, norms and other weights are always float32. Initial
    states have the types of the states.

    Raises:
        PackageError: the model would have more than MAX_PARAMETERS parameters.
    """
    weights: dict[str, Weight] = {}
    source = architecture.input
    if isinstance(source, TokensInput):
        weights["embedding.weight"] = Weight((source.vocabulary, source.embedding), product=True)
    front = shapes_of(source.parts, source.raw_width)
    if source.projection is not None:
        front = {name.removeprefix("0."): shape for name, shape in front.items()}
    _add(weights, "front" if source.projection is None else "projection", _of_rows(front))
    width = architecture.stack_input_width
    for number, layer in enumerate(architecture.stack):
        _layer(weights, f"stack.{number}", layer, width)
        width = layer.width
    head = architecture.head
    _add(weights, "head", _of_rows(shapes_of(head.parts, architecture.stack_width, head.places)))
    for part, _, entering, _ in architecture.placed:
        _add(weights, f"parts.{part.name}", part.weights(entering))
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


def initial_tensors(architecture: Architecture) -> dict[str, TensorInfo]:
    """The stored tensors of initial states."""
    states = {state.name: TensorInfo(state.shape, state.dtype) for state in architecture.states}
    return {one.key(name): states[name] for one in architecture.initial for name in one.stored}


def _of_rows(shapes: Shapes) -> dict[str, Weight]:
    """The weights of parts that compute each row by itself. Their matrices are those of products."""
    return {name: Weight(shape, product=len(shape) == 2) for name, shape in shapes.items()}


def _add(weights: dict[str, Weight], prefix: str, found: dict[str, Weight]) -> None:
    weights |= {f"{prefix}.{name}": weight for name, weight in found.items()}


def _layer(weights: dict[str, Weight], prefix: str, layer: LayerSpec, width: int) -> None:
    _add(weights, f"{prefix}.before", _of_rows(shapes_of(layer.before, width)))
    cell = facts_of(layer.cell).weights(layer, leaves(layer.before, width))
    for direction in directions(layer):
        _add(weights, f"{prefix}.{direction}", cell)
    _add(weights, f"{prefix}.between", _of_rows(shapes_of(layer.between, layer.cell_width)))
    width = layer.joined_width
    if layer.layer_norm:
        _add(weights, f"{prefix}.norm", {"weight": Weight((width,)), "bias": Weight((width,))})
    _add(weights, f"{prefix}.after", _of_rows(shapes_of(layer.after, width)))
