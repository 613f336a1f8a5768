"""The tensors of a package: names, shapes and types, from the architecture alone. No torch.

Layout of a layer's matrices is torch's: rows are gate blocks, i f g o for lstm, r z n for both grus.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from .cell_facts import facts_of
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

    Matrices have the model's type. Biases and norms are always float32. Initial states have the types of the
    states.

    Raises:
        PackageError: the model would have more than MAX_PARAMETERS parameters.
    """
    shapes: Shapes = {}
    source = architecture.input
    if isinstance(source, TokensInput):
        shapes["embedding.weight"] = (source.vocabulary, source.embedding)
    front = shapes_of(source.parts, source.raw_width)
    if source.projection is not None:
        shapes |= {f"projection.{name.removeprefix('0.')}": shape for name, shape in front.items()}
    else:
        _add(shapes, "front", front)
    width = architecture.stack_input_width
    for number, layer in enumerate(architecture.stack):
        _layer(shapes, f"stack.{number}", layer, width)
        width = layer.width
    head = architecture.head
    _add(shapes, "head", shapes_of(head.parts, architecture.stack_width, head.places))
    parameters = sum(prod(shape) for shape in shapes.values())
    if parameters > MAX_PARAMETERS:
        raise PackageError(
            f"the manifest asks for {parameters:,} parameters, more than the limit of "
            f"{MAX_PARAMETERS:,}; choose smaller sizes"
        )
    weights = {
        name: TensorInfo(shape, architecture.dtype if len(shape) == 2 else "float32")
        for name, shape in shapes.items()
    }
    return weights | initial_tensors(architecture)


def initial_tensors(architecture: Architecture) -> dict[str, TensorInfo]:
    """The stored tensors of initial states."""
    states = {state.name: TensorInfo(state.shape, state.dtype) for state in architecture.states}
    return {one.key(name): states[name] for one in architecture.initial for name in one.stored}


def _add(shapes: Shapes, prefix: str, found: Shapes) -> None:
    shapes |= {f"{prefix}.{name}": shape for name, shape in found.items()}


def _layer(shapes: Shapes, prefix: str, layer: LayerSpec, width: int) -> None:
    rows = facts_of(layer.cell).gates * layer.hidden
    _add(shapes, f"{prefix}.before", shapes_of(layer.before, width))
    width = leaves(layer.before, width)
    for direction in directions(layer):
        cell: Shapes = {
            "weight_ih": (rows, width),
            "weight_hh": (rows, layer.recurrent_width),
        }
        if layer.bias:
            cell |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if layer.proj_size:
            cell["weight_hr"] = (layer.proj_size, layer.hidden)
        _add(shapes, f"{prefix}.{direction}", cell)
    _add(shapes, f"{prefix}.between", shapes_of(layer.between, layer.cell_width))
    width = layer.joined_width
    if layer.layer_norm:
        _add(shapes, f"{prefix}.norm", {"weight": (width,), "bias": (width,)})
    _add(shapes, f"{prefix}.after", shapes_of(layer.after, width))
