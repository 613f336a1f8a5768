"""The `reference` kernel: plain torch, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from carousel_models.cells import CellCode, State, code_of, linear
from carousel_models.spec import LayerSpec

from .interface import Function, Linear, Link, Scatter, Step


class Reference:
    """The equations of `cells`."""

    name = "reference"
    batch_invariant = False

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """Torch's own product; see `Kernel.linear`."""
        return partial(linear, weight=weight, bias=bias)

    def layer(self, spec: LayerSpec, weights: Any) -> Step:
        """The cell's step; see `Kernel.layer`."""
        return partial(_step, code_of(spec.cell), weights)

    def unrolled(self, step: Step) -> None:
        """None; see `Kernel.unrolled`."""

    def scatter_into(self, targets: Sequence[Tensor]) -> Scatter:
        """Torch's own copy; see `Kernel.scatter_into`."""
        return partial(_scatter, targets)

    def chain(self, links: Sequence[Link]) -> None:
        """None; see `Kernel.chain`."""

    def recorded(self, function: Function) -> Function:
        """The function itself; see `Kernel.recorded`."""
        return function


def gather(state: State, slots: Tensor | None) -> State:
    """The rows at `slots`, or all rows if it is None."""
    return state if slots is None else tuple(tensor.index_select(0, slots) for tensor in state)


def _step(
    code: CellCode, weights: Any, x: Tensor, state: State, slots: Tensor | None = None
) -> tuple[Tensor, State]:
    return code.step(code.share(x, weights), gather(state, slots), weights)


def _scatter(targets: Sequence[Tensor], slots: Tensor, rows: State) -> None:
    for target, source in zip(targets, rows, strict=True):
        target.index_copy_(0, slots, source)
