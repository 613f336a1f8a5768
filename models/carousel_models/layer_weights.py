"""The stored weights of recurrent layers and of chains of rows: their names and shapes. No torch.

Layout of a layer's matrices is torch's: rows are gate blocks, i f g o for lstm, r z n for both grus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .cell_facts import Weight, facts_of
from .layer_spec import LayerSpec
from .row_parts import RowPart, leaves, shapes_of

Weights = dict[str, Weight]


def directions(layer: LayerSpec) -> tuple[str, ...]:
    """Names of a layer's directions, as they appear in tensor names."""
    if layer.bidirectional:
        return ("forward", "backward")
    return ("backward",) if layer.backward else ("forward",)


def row_weights(
    parts: tuple[RowPart, ...], width: int, places: Sequence[int] | None = None
) -> Weights:
    """The weights of a chain of rows, named as in `shapes_of`. Its matrices are those of products."""
    shapes = shapes_of(parts, width, places)
    return {name: Weight(shape, product=len(shape) == 2) for name, shape in shapes.items()}


def layer_weights(layers: Sequence[LayerSpec], width: int) -> Weights:
    """The weights of layers one after the other, such as "0.forward.weight_ih".

    Args:
        layers: the layers.
        width: of the rows that enter the first.
    """
    weights: Weights = {}
    for number, layer in enumerate(layers):
        weights |= below(str(number), _one_layer(layer, width))
        width = layer.width
    return weights


def below(prefix: str, weights: Mapping[str, Weight]) -> Weights:
    """The same weights with a prefix and a dot before their names."""
    return {f"{prefix}.{name}": weight for name, weight in weights.items()}


def _one_layer(layer: LayerSpec, width: int) -> Weights:
    weights = below("before", row_weights(layer.before, width))
    cell = facts_of(layer.cell).weights(layer, leaves(layer.before, width))
    for direction in directions(layer):
        weights |= below(direction, cell)
    weights |= below("between", row_weights(layer.between, layer.cell_width))
    width = layer.joined_width
    if layer.layer_norm:
        weights |= below("norm", {"weight": Weight((width,)), "bias": Weight((width,))})
    return weights | below("after", row_weights(layer.after, width))
