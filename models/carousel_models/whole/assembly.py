"""Makes the parts of a manifest and the tensors from a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from carousel_models.from_torch import convert_stack
from carousel_models.heads import head_of
from carousel_models.row_modules import Named, put_scale
from carousel_models.row_parts import (
    DEFAULT_EPS,
    LinearPart,
    NormPart,
    RowPart,
    SkipPart,
)
from carousel_models.spec import (
    FeaturesInput,
    LayerSpec,
    Normalization,
    Projection,
    TokensInput,
)

from .chains import BranchError, Element, MisfitError, Skip
from .values import Affine, Computed, Embedded, Recurrent, Selected, Transformed


@dataclass(slots=True)
class Assembled:
    """Fields of a manifest, tensors by name, and the states with which sessions begin by name."""

    parts: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: list[LayerSpec] = field(default_factory=list)
    initial: dict[str, Tensor] = field(default_factory=dict)

    def add(self, prefix: str, named: Sequence[Named]) -> tuple[RowPart, ...]:
        """Adds the tensors of a chain of parts."""
        for number, (_, tensors) in enumerate(named):
            self.tensors |= {f"{prefix}.{number}.{name}": value for name, value in tensors.items()}
        return tuple(part for part, _ in named)


def assemble(elements: list[Element], width: int) -> Assembled:
    """The manifest's input, stack and head, and all tensors.

    Args:
        elements: a chain from the input on.
        width: of features, 0 for tokens.

    Raises:
        MisfitError: a manifest cannot describe an element.
        BranchError: a residual is around something other than one layer, or rows.
    """
    for element in elements:
        if isinstance(element, Selected | Transformed):
            raise MisfitError(
                element.where,
                "it is in the middle of the model, and a manifest has it at the end only",
            )
    made = Assembled()
    elements = _enter(made, elements, width)
    places = [n for n, element in enumerate(elements) if _recurrents(element)]
    if not places:
        raise MisfitError(
            "the module", "it has no recurrent layer; Carousel serves models with a state"
        )
    _front(made, rows_of(elements[: places[0]]))
    for place, following in zip(places, [*places[1:], None], strict=True):
        gap = rows_of(elements[place + 1 : following])
        _layer(made, elements[place], gap if following else [])
        if following is None:
            _head(made, gap)
    made.parts |= {"stack": tuple(made.layers), "custom": None}
    return made


def _enter(made: Assembled, elements: list[Element], width: int) -> list[Element]:
    """The embedding or the normalization. Returns the other elements."""
    first = elements[0] if elements else None
    if isinstance(first, Embedded):
        made.tensors["embedding.weight"] = first.table
        vocabulary, size = first.table.shape
        made.parts["input"] = TokensInput(vocabulary=vocabulary, embedding=size)
        return elements[1:]
    mean, std = [0.0] * width, [1.0] * width
    constants: list[Affine] = []
    for sign in "-/":
        element = elements[len(constants)] if len(constants) < len(elements) else None
        if isinstance(element, Affine) and element.sign == sign:
            numbers = element.constant.double().tolist()
            mean, std = (numbers, std) if sign == "-" else (mean, numbers)
            constants.append(element)
    usable = bool(constants) and min(std) > 0
    normalization = Normalization(mean=tuple(mean), std=tuple(std)) if usable else None
    made.parts["input"] = FeaturesInput(width=width, normalization=normalization)
    return elements[len(constants) :] if usable else elements


def _front(made: Assembled, named: list[Named]) -> None:
    source = made.parts["input"]
    part, tensors = named[0] if len(named) == 1 else (None, {})
    update: dict[str, Any]
    if isinstance(part, LinearPart):
        made.tensors |= {f"projection.{name}": value for name, value in tensors.items()}
        update = {"projection": Projection(width=part.width, bias=part.bias)}
    else:
        update = {"front": made.add("front", named)}
    made.parts["input"] = source.model_copy(update=update)


def _layer(made: Assembled, element: Element, gap: list[Named]) -> None:
    """A recurrent module with what follows it, or a residual around one."""
    residual = isinstance(element, Skip)
    inner: list[Element] = list(element.elements) if isinstance(element, Skip) else [element]
    place = _one_layer(inner)
    expr = inner[place]
    assert isinstance(expr, Recurrent)
    converted, tensors = convert_stack(expr.module, residual=False, norms=())
    layers = list(converted)
    made.initial |= initial_of(expr, len(made.layers), layers)
    if residual and len(layers) > 1:
        raise BranchError
    base = len(made.layers)
    for name, tensor in tensors.items():
        _, number, rest = name.split(".", 2)
        made.tensors[f"stack.{base + int(number)}.{rest}"] = tensor
    prefix = f"stack.{base + len(layers) - 1}"
    layer_norm = bool(gap) and _is_plain_norm(gap[0][0])
    if layer_norm:
        made.tensors |= {f"{prefix}.norm.{name}": value for name, value in gap[0][1].items()}
    layers[0] = layers[0].model_copy(
        update={"before": made.add(f"stack.{base}.before", rows_of(inner[:place]))}
    )
    layers[-1] = layers[-1].model_copy(
        update={
            "between": made.add(f"{prefix}.between", rows_of(inner[place + 1 :])),
            "residual": residual,
            "layer_norm": layer_norm,
            "after": made.add(f"{prefix}.after", gap[layer_norm:]),
        }
    )
    made.layers += layers


def _one_layer(inner: list[Element]) -> int:
    """The place of the recurrent module."""
    places = [n for n, one in enumerate(inner) if isinstance(one, Recurrent)]
    nested = any(isinstance(one, Skip) and _recurrents(one) for one in inner)
    if len(places) != 1 or nested:
        raise BranchError
    return places[0]


def initial_of(expr: Recurrent, base: int, layers: Sequence[LayerSpec]) -> dict[str, Tensor]:
    """The states before the first step by name, of a module whose first layer is number `base`."""
    found: dict[str, Tensor] = {}
    for place, tensor in enumerate(expr.initial):
        rows = tensor[None] if tensor.dim() == 1 else tensor
        for number, row in enumerate(rows):
            name = layers[number].states[place].name
            found[f"{base + number}.{name}"] = row
    return found


def _head(made: Assembled, named: list[Named]) -> None:
    """The head. A usual norm directly behind the last layer is a part of that."""
    last = len(made.layers) - 1
    if named and _is_plain_norm(named[0][0]) and not made.layers[last].after:
        made.tensors |= {f"stack.{last}.norm.{n}": value for n, value in named[0][1].items()}
        made.layers[last] = made.layers[last].model_copy(update={"layer_norm": True})
        named = named[1:]
    add_head(made, named)


def add_head(made: Assembled, named: list[Named]) -> None:
    """The simplest head with these parts, and its tensors."""
    head = head_of([part for part, _ in named])
    for place, (_, tensors) in zip(head.places, named, strict=True):
        made.tensors |= {f"head.{place}.{name}": value for name, value in tensors.items()}
    made.parts["head"] = head


def rows_of(elements: Sequence[Element]) -> list[Named]:
    """Elements without recurrent layers as parts. Constants in a row become one scale, in float64."""
    named: list[Named] = []
    scale: tuple[Tensor, Tensor] | None = None
    for element in (*elements, None):
        if isinstance(element, Affine):
            scale = _scaled(element, scale)
            continue
        if scale is not None:
            put_scale(named, scale)
            scale = None
        if isinstance(element, Computed):
            named.append((element.part, element.tensors))
        elif isinstance(element, Skip):
            named.append(_skip(element))
        elif element is not None:
            raise MisfitError(element.where, "it cannot be there in a manifest")
    return named


def _scaled(element: Affine, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """A and b of a·x + b, with one more operation."""
    numbers = element.constant.double().cpu()
    ones, zeros = torch.ones_like(numbers), torch.zeros_like(numbers)
    a, b = before or (ones, zeros)
    match element.sign:
        case "+":
            return a, b + numbers
        case "-":
            return a, b - numbers
        case "*":
            return a * numbers, b * numbers
    return a / numbers, b / numbers


def _skip(skip: Skip) -> Named:
    named = rows_of(skip.elements)
    inner = [part for part, _ in named]
    if not inner or any(isinstance(part, SkipPart) for part in inner):
        raise BranchError
    tensors = {
        f"{number}.{name}": value
        for number, (_, found) in enumerate(named)
        for name, value in found.items()
    }
    return SkipPart(parts=tuple(inner)), tensors  # type: ignore[arg-type]


def _recurrents(element: Element) -> int:
    """Recurrent modules in an element."""
    if isinstance(element, Skip):
        return sum(map(_recurrents, element.elements))
    return int(isinstance(element, Recurrent))


def _is_plain_norm(part: RowPart) -> bool:
    usual = NormPart()
    return isinstance(part, NormPart) and part == usual and part.eps == DEFAULT_EPS
