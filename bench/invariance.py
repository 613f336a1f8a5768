"""Which batch sizes give a row the same bits: the reason for the smallest bucket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch

from carousel_models import RecurrentModel, create, load
from carousel_models.spec import Cell

CELLS: tuple[Cell, ...] = ("rnn_tanh", "lstm", "gru", "gru_reset_before")
DTYPES = ("float32", "bfloat16")
SIZES = (1, 2, 3, 4, 6, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def classes(device: str, kernel: str = "auto") -> dict[str, list[list[int]]]:
    """For each cell and dtype, batch sizes grouped by the bits of row 0 after three steps."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: _group(model) for name, model in _models(folder, device, kernel)}


def _models(folder: str, device: str, kernel: str) -> Iterator[tuple[str, RecurrentModel]]:
    for cell in CELLS:
        for dtype in DTYPES:
            name = f"{cell}-{dtype}"
            create(name, cell=cell, layers=2, hidden=256, output=64, dtype=dtype, dir=folder)
            yield name, load(f"{folder}/{name}", device=device, kernel=kernel)


@torch.inference_mode()
def _group(model: RecurrentModel) -> list[list[int]]:
    rows = torch.randn(max(SIZES), 64, generator=torch.Generator().manual_seed(0))
    groups: dict[bytes, list[int]] = {}
    for size in SIZES:
        x, state = rows[:size].to(model.device), model.initial_state(size)
        for _ in range(3):
            raw, state = model.step(x, state)
        groups.setdefault(raw[0].cpu().numpy().tobytes(), []).append(size)
    return list(groups.values())
