"""Parts of a model that compute each row by itself: before, between and after recurrent layers. No torch.

The tensors of part number n of a chain are `PREFIX.n.weight` and `PREFIX.n.bias`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from .lookup import entry
from .parts import Part, Size

MAX_PARTS = 64
DEFAULT_EPS = 1e-5

Activation = Literal[
    "relu", "tanh", "sigmoid", "gelu", "silu", "gelu_tanh", "leaky_relu", "elu", "celu", "selu",
    "softplus", "softsign", "hardtanh", "relu6", "hardsigmoid", "hardswish", "mish", "logsigmoid",
    "tanhshrink",
]  # fmt: skip
"""Functions of single numbers, by torch's definitions and, but for gelu_tanh, by its names."""

OPTIONS: dict[str, dict[str, float]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "softplus": {"beta": 1.0, "threshold": 20.0},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
}
"""Activations that have options, with torch's names and defaults of these."""

Shapes = dict[str, tuple[int, ...]]


class LinearPart(Part):
    """W x + b."""

    kind: Literal["linear"] = "linear"
    width: Size
    bias: bool = True

    def leaves(self, width: int) -> int:  # noqa: ARG002 - as all have it
        """Width of its output for an input of `width`."""
        return self.width

    def shapes(self, width: int) -> Shapes:
        """Its tensors, for an input of `width`."""
        bias: Shapes = {"bias": (self.width,)} if self.bias else {}
        return {"weight": (self.width, width), **bias}


class ActivationPart(Part):
    """A function of each number. `options` has those that differ from torch's defaults."""

    later: ClassVar[tuple[str, ...]] = ("options",)

    kind: Literal["activation"] = "activation"
    function: Activation
    options: dict[Annotated[str, StringConstraints(max_length=32)], float] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _options_of_the_function(self) -> Self:
        known = OPTIONS.get(self.function, {})
        for name in self.options:
            entry(known, name, f"option of {self.function}", ValueError, "leave it out")
        chosen = known | self.options
        if self.function == "hardtanh" and chosen["min_val"] >= chosen["max_val"]:
            raise ValueError("hardtanh needs min_val < max_val")
        if self.function in {"celu", "softplus"} and 0 in chosen.values():
            raise ValueError(f"{self.function} divides by its options; give none that is 0")
        return self

    def leaves(self, width: int) -> int:
        """Width of its output for an input of `width`."""
        return width

    def shapes(self, width: int) -> Shapes:  # noqa: ARG002 - as all have it
        """Its tensors, for an input of `width`."""
        return {}


class PReluPart(Part):
    """max(0, x) + a∘min(0, x), with one slope for all numbers or one for each."""

    kind: Literal["prelu"] = "prelu"
    slopes: Size = 1

    def leaves(self, width: int) -> int:
        """Width of its output for an input of `width`.

        Raises:
            ValueError: it has slopes for another width.
        """
        if self.slopes not in (1, width):
            raise ValueError(f"prelu has {self.slopes} slopes for rows of {width}; give 1 or all")
        return width

    def shapes(self, width: int) -> Shapes:  # noqa: ARG002 - as all have it
        """Its tensors, for an input of `width`."""
        return {"weight": (self.slopes,)}


class NormPart(Part):
    """A normalised row, then γ∘ and + β where the part has them.

    layer: (x − mean(x)) / √(var(x) + eps), with the biased variance, as nn.LayerNorm.
    rms: x / √(mean(x²) + eps), as nn.RMSNorm.
    """

    later: ClassVar[tuple[str, ...]] = ("eps",)

    kind: Literal["norm"] = "norm"
    norm: Literal["layer", "rms"] = "layer"
    eps: Annotated[float, Field(ge=0, le=1)] = DEFAULT_EPS
    weight: bool = True
    bias: bool = True

    @model_validator(mode="after")
    def _rms_has_no_bias(self) -> Self:
        if self.bias and self.norm == "rms":
            raise ValueError("an rms norm has no bias; give bias=false")
        return self

    def leaves(self, width: int) -> int:
        """Width of its output for an input of `width`."""
        return width

    def shapes(self, width: int) -> Shapes:
        """Its tensors, for an input of `width`."""
        named = {"weight": self.weight, "bias": self.bias}
        return {name: (width,) for name, present in named.items() if present}


class ScalePart(Part):
    """a∘x + b, one a and b for each number. BatchNorm in eval mode is one."""

    kind: Literal["scale"] = "scale"

    def leaves(self, width: int) -> int:
        """Width of its output for an input of `width`."""
        return width

    def shapes(self, width: int) -> Shapes:
        """Its tensors, for an input of `width`."""
        return {"weight": (width,), "bias": (width,)}


class SkipPart(Part):
    """X + parts(x)."""

    kind: Literal["skip"] = "skip"
    parts: Annotated[
        tuple[LinearPart | ActivationPart | PReluPart | NormPart | ScalePart, ...],
        Field(min_length=1, max_length=MAX_PARTS),
    ]

    def leaves(self, width: int) -> int:
        """Width of its output for an input of `width`.

        Raises:
            ValueError: its parts change the width.
        """
        found = leaves(self.parts, width)
        if found != width:
            raise ValueError(f"a skip adds rows of {found} to rows of {width}; give equal widths")
        return width

    def shapes(self, width: int) -> Shapes:
        """Its tensors, for an input of `width`."""
        return shapes_of(self.parts, width)


RowPart = Annotated[
    LinearPart | ActivationPart | PReluPart | NormPart | ScalePart | SkipPart,
    Field(discriminator="kind"),
]
RowParts = Annotated[tuple[RowPart, ...], Field(max_length=MAX_PARTS)]


def leaves(parts: tuple[RowPart, ...], width: int) -> int:
    """Width of the rows that leave a chain of parts.

    Raises:
        ValueError: a part does not fit its input.
    """
    for part in parts:
        width = part.leaves(width)
    return width


def shapes_of(
    parts: tuple[RowPart, ...], width: int, places: Sequence[int] | None = None
) -> Shapes:
    """The tensors of a chain of parts, named NUMBER.weight and so on.

    `places` has the number of each part. By default all are counted.
    """
    shapes: Shapes = {}
    for place, part in zip(range(len(parts)) if places is None else places, parts, strict=True):
        shapes |= {f"{place}.{name}": shape for name, shape in part.shapes(width).items()}
        width = part.leaves(width)
    return shapes
