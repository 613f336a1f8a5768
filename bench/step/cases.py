"""The grid that steps are measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import torch

CELLS: tuple[Literal["lstm", "gru"], ...] = ("lstm", "gru")
DTYPES: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")


class Grid(NamedTuple):
    """Sizes that are combined; `layers` unless others are asked for."""

    hidden: tuple[int, ...]
    layers: tuple[int, ...]
    batches: tuple[int, ...]


CPU = Grid((128, 256, 512, 1024), (1,), (1, 16, 64, 256))
GPU = Grid((512, 1024, 2048), (1, 2, 4), (1, 4, 16, 64, 256, 1024, 4096))


@dataclass(frozen=True, slots=True)
class Case:
    """One step of `batch` rows through `layers` layers, all as wide as the input."""

    cell: Literal["lstm", "gru"]
    dtype: Literal["float32", "bfloat16"]
    hidden: int
    layers: int
    batch: int

    @property
    def name(self) -> str:
        """As results name it."""
        return f"{self.cell} {self.layers}x{self.hidden} {self.dtype}, {self.batch} rows"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The weights' type."""
        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    @property
    def weights(self) -> int:
        """Elements of all matrices."""
        gates = 4 if self.cell == "lstm" else 3
        return self.layers * gates * self.hidden * 2 * self.hidden

    @property
    def bytes_moved(self) -> int:
        """Weights read once; input and states read, states written, in float32."""
        states = 2 if self.cell == "lstm" else 1
        rows = self.batch * self.hidden * 4 * (1 + 2 * states * self.layers)
        return self.weights * self.torch_dtype.itemsize + rows

    @property
    def launches(self) -> int:
        """The fewest: a product and its gates for each layer."""
        return 2 * self.layers

    @property
    def operations(self) -> int:
        """Of the matrix products; an addition counts as one and a multiplication too."""
        return 2 * self.batch * self.weights


def select(text: str, layers: Sequence[int] | None = None, grid: Grid = CPU) -> Iterator[Case]:
    """All cases of the grid whose name holds every word of `text`."""
    sizes = product(CELLS, DTYPES, grid.hidden, layers or grid.layers, grid.batches)
    for case in (Case(*size) for size in sizes):
        if all(word in f" {case.name}" for word in text.split(",") if word):
            yield case
