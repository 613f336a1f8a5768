"""Random packages of any architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carousel_models import Manifest, RecurrentModel
from carousel_models.cell_facts import FACTS
from carousel_models.creating import random_tensors
from carousel_models.errors import KernelError
from carousel_models.kernels import choose
from carousel_models.spec import FeaturesInput, TokensInput
from carousel_models.writing import write

MakePackage = Callable[..., Path]

# Greatest |difference| / (1 + |reference|). float32: a few hundred roundings of 6e-8. bfloat16: its
# matrix products round both operands to 8 bits (4e-3), a few times per output.
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}


CELLS: list[Any] = list(FACTS)


def _kernels() -> list[str]:
    """The kernels that this machine can run; tests/parity/test_kernels.py says why one is missing."""
    try:
        choose("cpu", torch.device("cpu"))
    except KernelError:
        return ["reference"]
    return ["reference", "cpu"]


KERNELS = _kernels()


@pytest.fixture
def make_package(tmp_path: Path) -> MakePackage:
    """Writes a package with random weights: make_package(stack=…, input=…, …) -> its path."""

    def make(seed: int = 0, **fields: Any) -> Path:
        fields.setdefault("input", FeaturesInput(width=5))
        manifest = Manifest(name="model", fingerprint="0" * 64, **fields)
        write(tmp_path / "model", manifest, random_tensors(manifest, seed), overwrite=True)
        return tmp_path / "model"

    return make


def random_input(manifest: Manifest, steps: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """A sequence for a model: float32[T, F] or int64[T]."""
    rng = np.random.default_rng(seed)
    if isinstance(manifest.input, TokensInput):
        return rng.integers(manifest.vocabulary, size=steps)
    return rng.normal(size=(steps, manifest.input.width)).astype(np.float32)


def run_steps(model: RecurrentModel, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Raw rows float32[T, W], one step at a time."""
    state, rows = model.initial_state(1), []
    with torch.inference_mode():
        for row in torch.from_numpy(x):
            raw, state = model.step(row[None], state)
            rows.append(raw)
    return torch.cat(rows).numpy()


def run_whole(model: RecurrentModel, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Raw rows float32[T, W], the sequence at once."""
    with torch.inference_mode():
        raw, _ = model.sequence(torch.from_numpy(x)[None], torch.tensor([len(x)]))
    return raw[0].numpy()


def difference(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Greatest |difference| / (1 + |expected|)."""
    assert found.shape == expected.shape
    return float((np.abs(found - expected) / (1 + np.abs(expected))).max())


__all__ = [
    "CELLS",
    "KERNELS",
    "TOLERANCE",
    "MakePackage",
    "difference",
    "random_input",
    "run_steps",
    "run_whole",
]
