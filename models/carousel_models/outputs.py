"""The manifest of an output: the transform and the selection of the head's row. No torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .inputs import RowField
from .parts import Part, Size

Transform = Literal["identity", "softmax", "sigmoid", "log_softmax"]
Window = Literal["none", "hann", "sqrt_hann", "hamming"]


class SelectFull(Part):
    """The whole row: field `y`, float32[width]."""

    kind: Literal["full"] = "full"

    def fields(self, width: int) -> tuple[RowField, ...]:
        """The fields of a row of this width."""
        return (RowField("y", "float32", (width,)),)


class SelectTopK(Part):
    """The k largest, largest first: fields `values` float32[k] and `indices` int32[k]."""

    kind: Literal["top_k"] = "top_k"
    k: Size

    def fields(self, width: int) -> tuple[RowField, ...]:  # noqa: ARG002 - as all have it
        """What a row becomes."""
        shape = (self.k,)
        return RowField("values", "float32", shape), RowField("indices", "int32", shape)


class SelectArgmax(Part):
    """The place of the largest: field `index`, int32 scalar."""

    kind: Literal["argmax"] = "argmax"

    def fields(self, width: int) -> tuple[RowField, ...]:  # noqa: ARG002 - as all have it
        """What a row becomes."""
        return (RowField("index", "int32", ()),)


Select = Annotated[SelectFull | SelectTopK | SelectArgmax, Field(discriminator="kind")]


class OverlapAdd(Part):
    """Frames of the head that overlap become a signal: each step gives the next `hop` samples.

    A frame of `width` samples is multiplied by the window and added to what earlier frames left. Its first
    `hop` samples are then complete. The rest is a state, which begins with zeros. So the signal is
    `width − hop` samples late. Windows are periodic, as in torch.hann_window, and "none" multiplies by 1.
    """

    hop: Size
    window: Window = "none"


class Output(Part):
    """The transform and the selection of the head's row, or the signal that its rows are added to."""

    later: ClassVar[tuple[str, ...]] = ("overlap_add",)

    transform: Transform = "identity"
    select: Select = SelectFull()
    overlap_add: OverlapAdd | None = None

    @model_validator(mode="after")
    def _signal_is_plain(self) -> Self:
        plain = self.transform == "identity" and isinstance(self.select, SelectFull)
        if self.overlap_add is not None and not plain:
            raise ValueError("overlap_add gives a signal; leave out transform and select")
        return self
