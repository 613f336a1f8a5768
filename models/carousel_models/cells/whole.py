"""Runs a cell over whole sequences: by its scan in pieces, or step after step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .interface import CellCode, CellStep, State

PIECE_STEPS = 64
"""Most steps of one scan. It bounds the memory, which grows with the logarithm of the steps."""


def run_whole(code: CellCode, share: Tensor, state: State, weights: Any) -> tuple[Tensor, State]:
    """From the share [T, B, n] of equally long sequences and their state to y [T, B, width] and the state."""
    if code.scan is None:
        return run_steps(code.step, share, state, weights)
    outputs: list[Tensor] = []
    for piece in torch.split(share, PIECE_STEPS):
        y, state = code.scan(piece, state, weights)
        outputs.append(y)
    return torch.cat(outputs), state


def run_steps(step: CellStep, share: Tensor, state: State, weights: Any) -> tuple[Tensor, State]:
    """The same, step after step."""
    outputs: list[Tensor] = []
    for row in share:
        y, state = step(row, state, weights)
        outputs.append(y)
    return torch.stack(outputs), state
