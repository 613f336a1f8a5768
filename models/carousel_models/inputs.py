"""The manifest of an input: tokens, features or frames, and its parts before the stack. No torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from .parts import MAX_SIZE, Part, Size
from .row_parts import LinearPart, RowPart, RowParts

MAX_VOCABULARY = 1 << 20
MAX_RATE = 1 << 24

MIN_FLOAT32, MAX_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Smallest normal and greatest number of float32."""


class Normalization(Part):
    """Constants of x ← (x − mean) / std, one per feature, so that clients send raw values."""

    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_SIZE)]
    std: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=MAX_SIZE)
    ]

    @model_validator(mode="after")
    def _in_float32(self) -> Self:
        for number, (mean, std) in enumerate(zip(self.mean, self.std, strict=False)):
            if abs(mean) > MAX_FLOAT32:
                raise ValueError(
                    f"mean[{number}] is {mean:g}, beyond float32; rescale that feature"
                )
            if not MIN_FLOAT32 <= std <= MAX_FLOAT32:
                raise ValueError(
                    f"std[{number}] is {std:g}, which float32 has only as 0 or infinity; a feature that is "
                    "constant gets 1, others are to be rescaled"
                )
        return self


class Projection(Part):
    """A linear layer between the input and the stack."""

    width: Size
    bias: bool = True


class _Front(Part):
    """What every input has: rows go through `projection`, or through the parts of `front`."""

    later: ClassVar[tuple[str, ...]] = ("front",)

    projection: Projection | None = None
    front: RowParts = ()

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.front and self.projection is not None:
            raise ValueError("give a projection or a front, and not both")
        return self

    @property
    def parts(self) -> tuple[RowPart, ...]:
        """The projection or the front as a chain."""
        one = self.projection
        return self.front if one is None else (LinearPart(width=one.width, bias=one.bias),)


class RowField(NamedTuple):
    """A field of an input or output row: its name, its type, its shape for one step."""

    name: str
    dtype: Literal["float32", "int32", "int16"]
    shape: tuple[int, ...]


class TokensInput(_Front):
    """Token ids 0 … vocabulary−1. Each selects a row of an embedding."""

    kind: Literal["tokens"] = "tokens"
    vocabulary: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
    embedding: Size

    @property
    def row(self) -> RowField:
        """What a client sends for one step."""
        return RowField("x", "int32", ())

    @property
    def raw_width(self) -> int:
        """Width before projection and front."""
        return self.embedding


class FeaturesInput(_Front):
    """Rows of `width` float32 numbers."""

    kind: Literal["features"] = "features"
    width: Size
    normalization: Normalization | None = None

    @property
    def row(self) -> RowField:
        """What a client sends for one step."""
        return RowField("x", "float32", (self.width,))

    @property
    def raw_width(self) -> int:
        """Width before projection and front."""
        return self.width

    @model_validator(mode="after")
    def _one_constant_per_feature(self) -> Self:
        if self.normalization is not None:
            found = {len(self.normalization.mean), len(self.normalization.std)}
            if found != {self.width}:
                raise ValueError(
                    f"normalization needs {self.width} means and stds, one per feature"
                )
        return self


ENCODINGS: dict[str, tuple[Literal["int16", "float32"], float]] = {
    "pcm16": ("int16", 2.0**-15),
    "float32": ("float32", 1.0),
}
"""The type of a sample on the wire, and the default of `scale`, for each encoding."""


class FramesInput(_Front):
    """Sound or another signal: each step brings the next `hop` samples.

    The stack's rows are `context` earlier samples and then the new ones, all times `scale`. The server keeps
    the context as a state, which begins with zeros. So clients send each sample once.

    `rate` is in samples a second. It is for people and clients, and the server does not resample.
    """

    later: ClassVar[tuple[str, ...]] = (*_Front.later, "scale")

    kind: Literal["frames"] = "frames"
    hop: Size
    context: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    rate: Annotated[int, Field(ge=1, le=MAX_RATE)]
    encoding: Literal["pcm16", "float32"] = "pcm16"
    scale: Annotated[float, Field(gt=0, le=MAX_FLOAT32, allow_inf_nan=False)] | None = None

    @property
    def row(self) -> RowField:
        """What a client sends for one step."""
        return RowField("x", ENCODINGS[self.encoding][0], (self.hop,))

    @property
    def raw_width(self) -> int:
        """Width before projection and front."""
        return self.context + self.hop

    @property
    def factor(self) -> float:
        """The number that every sample is multiplied by."""
        return ENCODINGS[self.encoding][1] if self.scale is None else self.scale

    @model_validator(mode="after")
    def _factor_in_float32(self) -> Self:
        if self.factor < MIN_FLOAT32:
            raise ValueError(f"scale is {self.factor:g}, which float32 has only as 0; rescale")
        return self


Input = Annotated[TokensInput | FeaturesInput | FramesInput, Field(discriminator="kind")]
