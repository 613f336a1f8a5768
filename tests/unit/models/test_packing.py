"""Blocks of equally many sequences are run at once, and give what the loop over single times gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carousel_models.cells import State
from carousel_models.packing import loop, runs


def step(x: Tensor, state: State) -> tuple[Tensor, State]:
    """A state that depends on the order of its inputs."""
    h = state[0] / 2 + x
    return 3 * h, (h, state[1] + 1)


def block(x: Tensor, state: State) -> tuple[Tensor, State]:
    """The same for many times."""
    rows = []
    for row in x:
        y, state = step(row, state)
        rows.append(y)
    return torch.stack(rows), state


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [[3], [3, 3, 3], [3, 3, 2, 1, 1], [4, 2], [1, 1]], ids=str)
def test_blocks_equal_single_times(sizes: list[int], reverse: bool) -> None:
    rows, state = torch.randn(sum(sizes), 5), (torch.randn(4, 5), torch.zeros(4, 1))
    before = [tensor.clone() for tensor in state]
    wanted = loop(step, rows, sizes, state, reverse=reverse)
    found = runs(block, rows, sizes, state, reverse=reverse)
    torch.testing.assert_close(found, wanted)
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


def test_each_block_is_as_long_as_it_can_be() -> None:
    seen: list[tuple[int, ...]] = []

    def run(x: Tensor, state: State) -> tuple[Tensor, State]:
        seen.append((*x.shape[:2], len(state[0])))
        return block(x, state)

    runs(run, torch.randn(9, 5), [3, 3, 1, 1, 1], (torch.zeros(3, 5), torch.zeros(3, 1)))
    assert seen == [(2, 3, 3), (3, 1, 1)]
