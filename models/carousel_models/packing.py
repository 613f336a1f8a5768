"""Sequences of different lengths without padding: rows by time, the longest sequences first.

The layout is that of torch's PackedSequence: all rows of time 0, then of time 1, and so on. At time t,
`sizes[t]` sequences are running, which are the first ones. So padding is not computed, and cannot affect
other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .cells import State


class Packing(NamedTuple):
    """How N padded sequences of T steps map to packed rows.

    Attributes:
        sizes: running sequences at each time, descending, none zero; at most T entries.
        order: int64[N], the sequences by descending length.
        inverse: int64[N], undoes `order`.
        place: int64[rows], where each packed row is in the flattened [N × T] grid.
    """

    sizes: tuple[int, ...]
    order: Tensor
    inverse: Tensor
    place: Tensor

    @classmethod
    def of(cls, lengths: Tensor, steps: int, device: torch.device) -> Packing:
        """Packing for int64[N] lengths on the CPU, each 0 … steps."""
        order = torch.argsort(lengths, descending=True, stable=True)
        running = torch.arange(steps)[:, None] < lengths[order][None, :]
        index = (order[None, :] * steps + torch.arange(steps)[:, None])[running]
        sizes = tuple(size for size in running.sum(1).tolist() if size)
        inverse = torch.argsort(order)
        return cls(sizes, order.to(device), inverse.to(device), index.to(device))

    def pack(self, x: Tensor) -> Tensor:
        """[N, T, ...] → [rows, ...]."""
        return x.flatten(0, 1)[self.place]

    def unpack(self, rows: Tensor, steps: int) -> Tensor:
        """[rows, W] → [N, steps, W], zero past each length."""
        count = len(self.order)
        grid = rows.new_zeros(count * steps, *rows.shape[1:])
        grid[self.place] = rows
        return grid.view(count, steps, *rows.shape[1:])


def loop(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    rows: Tensor,
    sizes: Sequence[int],
    state: State,
    *,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Runs `step` over packed rows, `sizes[t]` of them at time t, one time after the other from either end.

    `state` has all N sequences in packed order. The result's state is each sequence's last one.
    """
    state = tuple(tensor.clone() for tensor in state)
    chunks = list(zip(torch.split(rows, list(sizes)), sizes, strict=True))
    outputs = []
    for x, size in reversed(chunks) if reverse else chunks:
        y, new = step(x, tuple(tensor[:size] for tensor in state))
        for tensor, value in zip(state, new, strict=True):
            tensor[:size] = value
        outputs.append(y)
    return torch.cat(outputs[::-1] if reverse else outputs), state


def runs(
    run: Callable[[Tensor, State], tuple[Tensor, State]],
    rows: Tensor,
    sizes: Sequence[int],
    state: State,
    *,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Like `loop`, but gives all times with equally many sequences to one call of `run`, from either end.

    `run` takes [times, sequences, …] and the state of these sequences.
    """
    state = tuple(tensor.clone() for tensor in state)
    counts = [(size, sum(1 for _ in times)) for size, times in groupby(sizes)]
    blocks = torch.split(rows, [size * count for size, count in counts])
    pieces = list(zip(blocks, counts, strict=True))
    outputs = []
    for block, (size, count) in reversed(pieces) if reverse else pieces:
        given = block.view(count, size, *block.shape[1:])
        y, new = run(given.flip(0) if reverse else given, tuple(t[:size] for t in state))
        for tensor, value in zip(state, new, strict=True):
            tensor[:size] = value
        outputs.append((y.flip(0) if reverse else y).flatten(0, 1))
    return torch.cat(outputs[::-1] if reverse else outputs), state
