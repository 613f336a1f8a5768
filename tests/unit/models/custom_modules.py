"""Modules as a user might write them, imported by name in the tests of custom packages."""

from __future__ import annotations

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
