"""The tensors of a package: names, shapes and types, from the architecture alone. No torch.

Layout of a layer's matrices is torch's: rows are gate blocks, i f g o for lstm, r z n for both grus.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple, assert_never

from .cell_facts import facts_of
from .errors import PackageError
from .spec import MAX_PARAMETERS, Architecture, LayerSpec, LinearHead, MlpHead, NoHead, TokensInput


class TensorInfo(NamedTuple):
    """Shape and type ("float32" or "bfloat16") of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str


def directions(layer: LayerSpec) -> tuple[str, ...]:
    """Names of a layer's directions, as they appear in tensor names."""
    return ("forward", "backward") if layer.bidirectional else ("forward",)


def head_widths(architecture: Architecture) -> tuple[int, ...]:
    """Widths of the head's linear layers, first to last. Empty without a head."""
    match architecture.head:
        case NoHead():
            return ()
        case LinearHead(width=width):
            return (width,)
        case MlpHead(hidden=hidden, width=width):
            return (*hidden, width)
        case unknown:
            assert_never(unknown)


def expected_tensors(architecture: Architecture) -> dict[str, TensorInfo]:
    """All tensors of `model.safetensors`, except those of a custom module.

    Matrices have the model's type. Biases and norms are always float32.

    Raises:
        PackageError: the model would have more than MAX_PARAMETERS parameters.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    source = architecture.input
    if isinstance(source, TokensInput):
        shapes["embedding.weight"] = (source.vocabulary, source.embedding)
    if source.projection is not None:
        _linear(
            shapes, "projection", source.raw_width, source.projection.width, source.projection.bias
        )
    width = architecture.stack_input_width
    for number, layer in enumerate(architecture.stack):
        _layer(shapes, number, layer, width)
        width = layer.width
    width = architecture.stack_width
    for number, out in enumerate(head_widths(architecture)):
        _linear(shapes, f"head.{number}", width, out, getattr(architecture.head, "bias", True))
        width = out
    parameters = sum(prod(shape) for shape in shapes.values())
    if parameters > MAX_PARAMETERS:
        raise PackageError(
            f"the manifest asks for {parameters:,} parameters, more than the limit of "
            f"{MAX_PARAMETERS:,}; choose smaller sizes"
        )
    return {
        name: TensorInfo(shape, architecture.dtype if len(shape) == 2 else "float32")
        for name, shape in shapes.items()
    }


def _linear(
    shapes: dict[str, tuple[int, ...]], name: str, width: int, out: int, bias: bool
) -> None:
    shapes[f"{name}.weight"] = (out, width)
    if bias:
        shapes[f"{name}.bias"] = (out,)


def _layer(shapes: dict[str, tuple[int, ...]], number: int, layer: LayerSpec, width: int) -> None:
    rows = facts_of(layer.cell).gates * layer.hidden
    for direction in directions(layer):
        prefix = f"stack.{number}.{direction}"
        shapes[f"{prefix}.weight_ih"] = (rows, width)
        shapes[f"{prefix}.weight_hh"] = (rows, layer.recurrent_width)
        if layer.bias:
            shapes[f"{prefix}.bias_ih"] = (rows,)
            shapes[f"{prefix}.bias_hh"] = (rows,)
        if layer.proj_size:
            shapes[f"{prefix}.weight_hr"] = (layer.proj_size, layer.hidden)
    if layer.layer_norm:
        shapes[f"stack.{number}.norm.weight"] = (layer.width,)
        shapes[f"stack.{number}.norm.bias"] = (layer.width,)
