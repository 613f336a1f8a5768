"""A comparison made in seconds, on models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import carousel_models
from carousel_models.compare import Comparison, run
from carousel_models.compare.recall import RecallTask

QUICK = RecallTask(gaps=(1, 4), longest_trained=2, hidden=4, updates=2, batch=4, seeds=(0, 1))
HIDDEN = 8


def random_zoo(folder: Path, *, hidden: dict[str, int] | None = None) -> Path:
    for cell, stack in {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}.items():
        random_package(folder, cell, stack, (hidden or {}).get(cell, HIDDEN))
    return folder


def random_package(folder: Path, cell: str, stack: Any, width: int) -> None:
    carousel_models.save(
        folder / f"pychar-{cell}",
        embedding=nn.Embedding(256, 4),
        stack=stack(4, width),
        head=nn.Linear(width, 256),
        tokenizer="bytes",
        training={"steps": 7, "wall_s": 0.5},
    )


@pytest.fixture(scope="session")
def reports() -> list[tuple[str, float]]:
    """What the comparison has reported of its progress."""
    return []


@pytest.fixture(scope="session")
def comparison(
    tmp_path_factory: pytest.TempPathFactory, reports: list[tuple[str, float]]
) -> Comparison:
    zoo = random_zoo(tmp_path_factory.mktemp("zoo"))

    def progress(now: str, done: float) -> None:
        reports.append((now, done))

    return run(
        zoo, seconds_per_measurement=0.01, held_out_bytes=2000, task=QUICK, progress=progress
    )
