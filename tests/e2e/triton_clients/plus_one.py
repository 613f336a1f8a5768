"""The model of Triton's own sequence examples: the output is the input, plus one on a sequence's START."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PlusOneOnStart(nn.Module):
    """Counts steps; a state of zero is what a sequence starts with."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (count,) = state
        return x + (count[:, None] == 0).to(torch.float32), (count + 1,)
