"""Layers with packed weights: one matrix product and one launch of their gates a step.

An operand has one of two layouts. With x and h in one row, a gate is one sum. Where a gate needs the shares
of x and h apart (gru), x and h are two matrices, so that both products are one batched call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.cell_facts import facts_of
from carousel_models.cells import State, Weights
from carousel_models.errors import KernelError
from carousel_models.lookup import entry
from carousel_models.spec import LayerSpec

from . import gates

_MOST_UNITS = 512
"""Most units of one program, four for each thread."""


class Operand(NamedTuple):
    """The operand of a layer's product: `whole`, and its parts for x [B, in] and for h [B, width]."""

    whole: Tensor
    x: Tensor
    h: Tensor


class After(NamedTuple):
    """The target of a layer's output: the next layer's operand, with that layer's h of all rows."""

    operand: Operand
    h: Tensor

    @property
    def pointers(self) -> tuple[Any, ...]:
        """As `gates` takes it."""
        to, h = self.operand, self.h
        return (to.x, to.h, to.x.stride(0), h, h.stride(0), h.shape[1])


class Given(NamedTuple):
    """The other inputs of a step: state, slots, the residual's x, the target of y."""

    state: State
    slots: Tensor | None
    residual: Tensor | None
    after: After | None

    @property
    def x(self) -> tuple[Tensor | None, int]:
        """The residual's x and its row stride."""
        return self.residual, 0 if self.residual is None else self.residual.stride(0)

    @property
    def pointers(self) -> tuple[Any, ...] | None:
        """Where y goes on."""
        return None if self.after is None else self.after.pointers

    def width(self, units: int) -> int:
        """Of what a launch writes: this layer's units and the next one's h."""
        return units if self.after is None else max(units, self.after.h.shape[1])

    def empty(self, rows: int, units: int) -> tuple[Tensor, Tensor | None]:
        """Room for h, and for y if that is another."""
        h = self.state[0].new_empty(rows, units)
        return h, None if self.residual is None else torch.empty_like(h)


class PackedLayer(Protocol):
    """One layer; immutable."""

    @property
    def units(self) -> int:
        """Width of its h and of its output."""

    def operand(self, rows: int) -> Operand:
        """Room for the operand of so many rows."""

    def step(self, operand: Operand, given: Given) -> tuple[Tensor, State]:
        """Y [B, units] and the new state, fresh."""


class _SideBySide:
    """[x, h] · [W_ih, W_hh]ᵀ: a weight [gates × units, in + units], and one bias."""

    def __init__(self, w: Weights, count: int) -> None:
        self.units = len(w.ih) // count
        self.inputs = w.ih.shape[1]
        self.weight = torch.cat((w.ih, w.hh), dim=1)
        self.bias = _bias(w.bias_ih, w) + _bias(w.bias_hh, w)

    def operand(self, rows: int) -> Operand:
        """One row [x, h] for each."""
        whole = self.weight.new_empty(rows, self.weight.shape[1])
        return Operand(whole, whole[:, : self.inputs], whole[:, self.inputs :])


class Rnn(_SideBySide):
    """See `cells.rnn_tanh` and `cells.rnn_relu`."""

    def __init__(self, w: Weights, *, relu: bool) -> None:
        super().__init__(w, 1)
        self._relu = relu

    def step(self, operand: Operand, given: Given) -> tuple[Tensor, State]:
        """See `PackedLayer.step`."""
        sums = product(operand.whole, self.weight)
        h, y = given.empty(len(sums), self.units)
        launch(
            gates.rnn, len(sums), given.width(self.units),
            sums, self.bias, given.slots, *given.x, self.units, h, y, given.pointers,
            RELU=self._relu,
        )  # fmt: skip
        return h if y is None else y, (h,)


class Lstm(_SideBySide):
    """See `cells.lstm`, without projection."""

    def __init__(self, w: Weights) -> None:
        super().__init__(w, 4)

    def step(self, operand: Operand, given: Given) -> tuple[Tensor, State]:
        """See `PackedLayer.step`."""
        sums, c = product(operand.whole, self.weight), given.state[1]
        h, y = given.empty(len(sums), self.units)
        c_new = torch.empty_like(h)
        launch(
            gates.lstm, len(sums), given.width(self.units),
            sums, self.bias, c, c.stride(0), given.slots, *given.x, self.units, h, c_new, y,
            given.pointers,
        )  # fmt: skip
        return h if y is None else y, (h, c_new)


class ResetBefore(_SideBySide):
    """See `cells.gru_reset_before`: its candidate's product needs r∘h, and so comes after its gates'."""

    def __init__(self, w: Weights) -> None:
        super().__init__(w, 3)

    def step(self, operand: Operand, given: Given) -> tuple[Tensor, State]:
        """See `PackedLayer.step`; the operand's h is changed."""
        two, h = 2 * self.units, given.state[0]
        sums = product(operand.whole, self.weight[:two])
        launch(
            gates.reset, len(sums), self.units,
            sums, self.bias, h, h.stride(0), given.slots, self.units, operand.h,
            operand.h.stride(0),
        )  # fmt: skip
        candidate = product(operand.whole, self.weight[two:])
        h_new, y = given.empty(len(sums), self.units)
        launch(
            gates.gru_reset_before, len(sums), given.width(self.units),
            sums, candidate, self.bias, self.bias[two:], h, h.stride(0), given.slots, *given.x,
            self.units, h_new, y, given.pointers,
        )  # fmt: skip
        return h_new if y is None else y, (h_new,)


class Gru:
    """See `cells.gru`: x · W_ihᵀ and h · W_hhᵀ in one batched product, the narrower one filled with zeros."""

    def __init__(self, w: Weights) -> None:
        self.units, self.inputs = w.hh.shape[1], w.ih.shape[1]
        self.weight = w.ih.new_zeros(2, len(w.ih), max(self.units, self.inputs))
        self.weight[0, :, : self.inputs] = w.ih
        self.weight[1, :, : self.units] = w.hh
        self.bias_x, self.bias_h = _bias(w.bias_ih, w), _bias(w.bias_hh, w)

    def operand(self, rows: int) -> Operand:
        """[2, B, width]: x and h; zeros where one is narrower than the other."""
        empty = torch.empty if self.units == self.inputs else torch.zeros
        shape = (2, rows, self.weight.shape[2])
        whole = empty(shape, dtype=self.weight.dtype, device=self.weight.device)
        return Operand(whole, whole[0, :, : self.inputs], whole[1, :, : self.units])

    def step(self, operand: Operand, given: Given) -> tuple[Tensor, State]:
        """See `PackedLayer.step`."""
        of_x, of_h = product(operand.whole, self.weight)
        h = given.state[0]
        h_new, y = given.empty(len(of_x), self.units)
        launch(
            gates.gru, len(of_x), given.width(self.units),
            of_x, of_h, self.bias_x, self.bias_h, h, h.stride(0), given.slots, *given.x,
            self.units, h_new, y, given.pointers,
        )  # fmt: skip
        return h_new if y is None else y, (h_new,)


FORMS: dict[str, Callable[[Weights], PackedLayer]] = {
    "rnn_tanh": partial(Rnn, relu=False),
    "rnn_relu": partial(Rnn, relu=True),
    "lstm": Lstm,
    "gru": Gru,
    "gru_reset_before": ResetBefore,
}
"""The packed form of each cell whose facts name this kernel."""


def packed(spec: LayerSpec, w: Any) -> PackedLayer | None:
    """A layer's packed weights. None if there are no gates for it, such as with a projection or an option.

    Raises:
        KernelError: the cell's facts name this kernel, which has no form for it.
    """
    if "cuda" not in facts_of(spec.cell).kernels or spec.proj_size or spec.options:
        return None
    fix = "add it to kernels/packed.FORMS, or serve with kernel=reference"
    form = entry(FORMS, spec.cell, "packed form of a cell", KernelError, fix)
    return form(w)


def pack(x: Tensor, slots: Tensor | None, after: After) -> None:
    """Fills a layer's operand: x float32[B, in], and h of the rows at the slots."""
    width = max(x.shape[1], after.h.shape[1])
    launch(gates.pack, len(x), width, x, x.stride(0), x.shape[1], slots, after.pointers)


def launch(kernel: Any, rows: int, width: int, *arguments: Any, **flags: Any) -> None:
    """One program for each row and each block of its units."""
    if rows:
        block = min(_MOST_UNITS, 1 << (width - 1).bit_length())
        kernel[(rows, -(-width // block))](*arguments, **flags, BLOCK=block)


def _bias(bias: Tensor | None, w: Weights) -> Tensor:
    return w.ih.new_zeros(len(w.ih), dtype=torch.float32) if bias is None else bias


def product(x: Tensor, weight: Tensor) -> Tensor:
    """X · Wᵀ: x [B, in] and weight [out, in], or one of each for each of [N, …], → float32[…, B, out].

    Both have one type. On CUDA, bfloat16 uses tensor cores with sums in float32.
    """
    if weight.dtype == torch.float32:
        return torch.matmul(x, weight.mT)
    if x.is_cuda:
        multiply = torch.mm if x.dim() == 2 else torch.bmm
        return multiply(x, weight.mT, out_dtype=torch.float32)
    return torch.matmul(x.float(), weight.float().mT)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b: float32[…, in] → float32[…, out]."""
    if weight.dtype == torch.float32:
        return F.linear(x, weight, bias)
    rows = product(x.reshape(-1, x.shape[-1]).to(weight.dtype), weight)
    y = rows.view(*x.shape[:-1], len(weight))
    return y if bias is None else y.add_(bias)
