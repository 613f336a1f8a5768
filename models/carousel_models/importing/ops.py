"""The operations of a model that was read from a file, in the order of computation. No torch.

Arrays are NumPy's. Their layout is that of `tensors.py`: matrices [out, in], gates in torch's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = W x + b. `weight` is [out, in], `bias` is [out] or None."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, slots=True)
class Scale:
    """y = factor∘x + shift, as of a batch norm with its running statistics. Both are [width]."""

    factor: Array
    shift: Array


@dataclass(frozen=True, slots=True)
class Activate:
    """An activation by its name in a manifest, with the options that differ from torch's defaults."""

    name: str
    options: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PRelu:
    """max(0, x) + a∘min(0, x). `slopes` is [1] or [width]."""

    slopes: Array


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm over the row, of a kind that a manifest has. `weight` and `bias` are [width] or None."""

    kind: str
    weight: Array | None
    bias: Array | None
    eps: float


@dataclass(frozen=True, slots=True)
class ToOutput:
    """A transform of the output row, by its name in a manifest."""

    name: str


@dataclass(frozen=True, slots=True)
class Direction:
    """Weights of a recurrent layer in one direction. Biases are [gates × hidden], both or neither.

    `peepholes` are those of an lstm's i, f and o, [3 × hidden].
    """

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array | None = None
    bias_hh: Array | None = None
    weight_hr: Array | None = None
    peepholes: Array | None = None

    def entered_by(self, linear: Linear) -> Direction:
        """The direction that gives the same rows for x as this one for W x + b."""
        weight = self.weight_ih.astype(np.float64)
        bias_ih, bias_hh = self.bias_ih, self.bias_hh
        if linear.bias is not None:
            none = np.zeros(len(weight))
            bias_ih = weight @ linear.bias + (none if bias_ih is None else bias_ih)
            bias_hh = none if bias_hh is None else bias_hh
        return replace(self, weight_ih=weight @ linear.weight, bias_ih=bias_ih, bias_hh=bias_hh)


@dataclass(frozen=True, slots=True)
class Recur:
    """A recurrent layer.

    Attributes:
        cell: its name in a manifest.
        directions: forward, or forward and backward, or backward alone.
        backward: the only direction is the backward one.
        initial: what its states begin with, by their names in the layer, such as "h". Others begin with 0.
    """

    cell: str
    directions: tuple[Direction, ...]
    backward: bool = False
    initial: Mapping[str, Array] = field(default_factory=dict)

    @property
    def hidden(self) -> int:
        """Hidden size."""
        first = self.directions[0]
        weight = first.weight_hh if first.weight_hr is None else first.weight_hr
        return int(weight.shape[1])


@dataclass(frozen=True, slots=True)
class Skip:
    """X + ops(x)."""

    ops: tuple[Op, ...]


Op = Linear | Scale | Activate | PRelu | Norm | ToOutput | Recur | Skip


@dataclass(frozen=True, slots=True)
class Chain:
    """A model as a chain of operations, each on the rows of the one before.

    Attributes:
        ops: the operations.
        embedding: [vocabulary, width] if the input is tokens.
        normalization: (mean, std) of features, each [width].
    """

    ops: tuple[Op, ...]
    embedding: Array | None = None
    normalization: tuple[Array, Array] | None = None
