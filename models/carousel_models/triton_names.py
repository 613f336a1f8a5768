"""What Triton's clients call a model's input and outputs. No torch."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field

from .parts import Label, Part, Size


class TritonTensor(Part):
    """Name, datatype and dimensions of one field in Triton's protocol.

    `dims`, as in a config.pbtxt, come behind the batch's dimension; empty for the field's own shape. With
    (1, F) a row of F numbers has the shape [1, 1, F], as recurrent models with a time axis have it.
    """

    name: Label
    datatype: Literal["FP32", "INT16", "INT32", "INT64"]
    dims: Annotated[tuple[Size, ...], Field(max_length=8)] = ()

    def check_dims(self, numbers: int) -> None:
        """Raises ValueError unless its dimensions hold so many numbers."""
        if self.dims and prod(self.dims) != numbers:
            raise ValueError(
                f"triton tensor {self.name!r} has dims {list(self.dims)}, but its field has {numbers} numbers"
            )


class TritonNames(Part):
    """What Triton's clients call the input and the outputs; the fields' own names where it is missing.

    Integers may stand for float fields that hold whole numbers, INT64 for tokens and indices.
    """

    input: TritonTensor | None = None
    outputs: Annotated[tuple[TritonTensor, ...], Field(max_length=2)] = ()
