"""The interface of kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from carousel_models.cells import State
from carousel_models.spec import LayerSpec

Linear = Callable[[Tensor], Tensor]
"""float32[B, in] → float32[B, out]."""


Function = Callable[..., tuple[Tensor, ...]]
"""A function of tensors only. Its launches depend on their shapes only."""


class Step(Protocol):
    """One step of a layer, or of a chain of them."""

    def __call__(
        self, x: Tensor, state: State, slots: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """From x float32[B, in] and state [B, width] each, computes y float32[B, out] and the new state.

        With `slots` int64[B] the state is given in tensors of many rows, of which row slots[i] belongs to
        row i. Results are new tensors, and arguments are not changed.
        """


Unrolled = Callable[[Tensor, Sequence[int], State], tuple[Tensor, State]]
"""Many steps of a layer at once: packed rows [rows, in], how many of each time, and the state before →
rows [rows, out], and the state after each sequence's last step; see `packing`."""


class Link(NamedTuple):
    """A layer of a chain: its step, then its input added if it is residual, then its norm's γ and β."""

    step: Step
    residual: bool
    norm: tuple[Tensor, Tensor] | None


Scatter = Callable[[Tensor, State], None]
"""Slots int64[B] and one tensor [B, …] for each target: row i of it becomes the target's row slots[i]."""


class Kernel(Protocol):
    """Computes linear layers and steps of recurrent layers. Immutable; any thread may use it."""

    @property
    def name(self) -> str:
        """Names all that its rounding depends on."""

    @property
    def batch_invariant(self) -> bool:
        """True if a row's bits are the same in a batch of any size."""

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """W x + b with weight [out, in]: operands rounded to the weight's type, the rest in float32."""

    def layer(self, spec: LayerSpec, weights: Any) -> Step | None:
        """The forward direction's step, before residual and norm. None if it has no code of its own for it.

        `weights`: as the cell's `CellCode.prepare` makes them.
        """

    def unrolled(self, step: Step) -> Unrolled | None:
        """Many steps with the same bits as a step of `layer`. None if that is not faster."""

    def scatter_into(self, targets: Sequence[Tensor]) -> Scatter:
        """A function that writes rows into these tensors."""

    def chain(self, links: Sequence[Link]) -> Step | None:
        """One step of several layers of `layer`. None if that is not faster than the layers alone."""

    def recorded(self, function: Function) -> Function:
        """The same function, which may be replayed from records.

        Its results are valid until the next call of any function that this kernel has recorded.
        """
