"""Parts without a state: a function of each row as a recurrent stack, and functions of several rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .cells import State


class Stateless:
    """Each row of the output depends on its own input row alone.

    Args:
        run: float32[rows, in] → float32[rows, out].
        batch_invariant: True if a row's bits are the same in a batch of any size.
    """

    state_specs = ()
    unseen_states = ()
    half = False

    def __init__(self, run: Callable[[Tensor], Tensor], *, batch_invariant: bool) -> None:
        self._run = run
        self.batch_invariant = batch_invariant

    def step(
        self,
        x: Tensor,
        state: State,
        slots: Tensor | None = None,  # noqa: ARG002 - as all have it
    ) -> tuple[Tensor, State]:
        """One row of each session."""
        return self._run(x), state

    def sequence(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:  # noqa: ARG002 - as all have it
        """All rows at once."""
        return self._run(rows), state


def added(rows: Sequence[Tensor]) -> Tensor:
    """The sum of rows [..., n], from the first to the last."""
    first, *others = rows
    for row in others:
        first = first + row
    return first


def multiplied(rows: Sequence[Tensor]) -> Tensor:
    """Rows [..., n] times rows [..., n], or complex rows [..., 2·n] times real ones."""
    first, second = rows
    if first.shape[-1] == second.shape[-1]:
        return first * second
    return torch.cat([half * second for half in first.chunk(2, dim=-1)], dim=-1)
