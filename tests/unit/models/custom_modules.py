"""Modules as a user might write them, imported by name in the tests of custom packages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LeakySum(nn.Module):
    """s ← decay ∘ s + W x, counting steps in an integer state; y = s + bias of the count."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, width))
        self.decay: Tensor
        self.register_buffer("decay", torch.full((out,), 0.5))

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        total, count = state
        total = self.decay * total + x @ self.weight.T
        return total + count[:, None].float(), (total, count + 1)


class NoStep(nn.Module):
    """A module that forgot its step."""


class Failing(nn.Module):
    """Cannot be made."""

    def __init__(self) -> None:
        super().__init__()
        raise RuntimeError("no licence")


class WrongShape(LeakySum):
    """Answers with a row of another width than it declares."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, state = super().step(x, state)
        return y[:, :-1], state


class WrongState(LeakySum):
    """Lets its state drift into another type."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, (total, count) = super().step(x, state)
        return y, (total.double(), count)


class Raising(LeakySum):
    """Fails when it is used."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        raise ZeroDivisionError("nothing there")


class Cell(nn.Module):
    """A GRU cell with a step that keeps its word; the base of those that do not."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, out)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = self.cell(x, state[0])
        return h, (h,)


class InPlace(Cell):
    """Writes its new state over the old one, and hands that out as its output too."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        state[0].copy_(self.cell(x, state[0]))
        return state[0], (state[0],)


class InPlaceInput(Cell):
    """Scales its input in place, and hands out a view of it as a state."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = self.cell(x.mul_(0.5), state[0])
        state[0][:, :3].copy_(x)
        return torch.cat((x, h), dim=1)[:, 3:], (state[0].view_as(state[0]),)


class OneBuffer(Cell):
    """Writes all outputs into one buffer of its own."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = self.cell(x, state[0])
        known: dict[int, Tensor] = self.__dict__.setdefault("outputs", {})
        out = known.setdefault(len(x), torch.empty_like(h))
        out.copy_(h)
        return out, (out,)


class Mixes(Cell):
    """Subtracts the mean of the batch."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step(x - x.mean(0), state)


class MixesALittle(Cell):
    """Lets a thousandth of another row's state through."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step(x, (state[0] + 0.001 * state[0].roll(1, 0),))


class BatchOne(Cell):
    """Has a batch of one built in."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step(x.view(1, -1), (state[0].view(1, -1),))


class EvenOnly(Cell):
    """Works for one row, and for pairs of rows."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if len(x) > 1 and len(x) % 2:
            raise ValueError("an odd batch")
        return super().step(x, state)


class BatchOf32(Cell):
    """Has weights for 32 rows at most."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step(x + torch.zeros(32, x.shape[1])[: len(x)], state)


class KeepsState(Cell):
    """Remembers its last output by itself."""

    last: Tensor | None = None

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, state = super().step(x, state)
        h = h if self.last is None or self.last.shape != h.shape else h + 0.1 * self.last
        self.last = h
        return h, state


class CountsSteps(Cell):
    """Counts its calls in a buffer, without using the count."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.calls += 1
        return super().step(x, state)


class Dropping(Cell):
    """Leaves dropout on."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step(nn.functional.dropout(x, 0.1), state)


class Drawing(Cell):
    """Adds noise."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step(x + 0.01 * torch.rand(x.shape), state)


class Growing(Cell):
    """Outgrows float32."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = (state[0] + 1) * 1e10
        return h, (h,)


class Trained(Cell):
    """Has a BatchNorm and dropout, which are right in eval mode only."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.norm, self.drop = nn.BatchNorm1d(width), nn.Dropout(0.5)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step(self.drop(self.norm(x)), state)


class Scaled(Cell):
    """Computes with an attribute that is in no state_dict."""

    def __init__(self, width: int, out: int, scale: float = 1.0) -> None:
        super().__init__(width, out)
        self.scale = scale

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step(self.scale * x, state)


class Half(Cell):
    """Computes in bfloat16."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.cell = self.cell.to(torch.bfloat16)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = self.cell(x.bfloat16(), state[0].bfloat16()).float()
        return h, (h,)


class ExtraCell(nn.GRUCell):
    """Puts something other than a tensor into the state_dict."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}


class Extra(Cell):
    """Has such a cell."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.cell = ExtraCell(width, out)


class Complex(Cell):
    """Has a complex weight."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.turn = nn.Parameter(torch.tensor([0.6 + 0.8j]))

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().step((self.turn * x).real, state)


class Transposed(Cell):
    """Gives views whose rows are not contiguous, as a transpose does."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, _ = super().step(x, state)
        return h.T.contiguous().T, (h.T.contiguous().T,)


class SparseRows(Cell):
    """Gives rows that are no dense tensor."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, state = super().step(x, state)
        return h.to_sparse(), state


class ArrayState(Cell):
    """Gives its state as an array of NumPy."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        h, state = super().step(x, state)
        return h, (h.numpy(),)


class ComplexRows(Cell):
    """Gives rows with an imaginary part."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, state = super().step(x, state)
        return h * (0.6 + 0.8j), state


class Everything(nn.Module):
    """A state of every type: each counts, doubles or adds, and all together give y."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        half, brain, double, small, large, flag, phase, lowest = state
        new = (
            half * 0.5 + x.to(half.dtype),
            (brain * 0.5 + x).to(brain.dtype),
            double * 0.5 + x.double().sum(-1),
            small + 1,
            large + 2,
            ~flag,
            phase * 1j + x,
            torch.minimum(lowest, x),
        )
        y = new[0].float() + new[1].float() + new[2].float()[:, None] + new[6].real
        return y + new[3][:, :2] + new[5][:, 0].float(), new
