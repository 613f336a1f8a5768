"""A custom module behind a real server: sessions in company, in blocks and whole, equal the plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.server import ServerProcess

import carousel
from carousel_models import save
from carousel_models.spec import CustomSpec, StateDeclaration
from tests.unit.models.custom_modules import Cell, InPlace, InPlaceInput, OneBuffer, Transposed

MODULE = "tests.unit.models.custom_modules"
KINDS = (Cell, InPlace, InPlaceInput, OneBuffer, Transposed)
ROOT = Path(__file__).parents[2]
STEPS, SESSIONS = 15, 5


def plain_loop(module: Cell, x: np.ndarray) -> np.ndarray:
    """[T, 3] → [T, 4]."""
    state: tuple[torch.Tensor, ...] = (torch.zeros(1, 4),)
    rows = []
    with torch.no_grad():
        for row in torch.from_numpy(x):
            y, state = module.step(row[None].clone(), state)
            rows.append(y[0].numpy().copy())
    return np.stack(rows)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_in_place_modules_answer_each_row_with_its_own(tmp_path: Path, kernel: str) -> None:
    torch.manual_seed(0)
    modules = {kind.__name__: kind(3, 4) for kind in KINDS}
    for name, module in modules.items():
        spec = CustomSpec(
            module=f"{MODULE}:{name}",
            kwargs={"width": 3, "out": 4},
            states=(StateDeclaration(name="h", shape=(4,)),),
            width=4,
        )
        save(tmp_path / name, stack=module, custom=spec, features=3)
    x = np.random.default_rng(0).normal(size=(SESSIONS, STEPS, 3)).astype(np.float32)
    allowed = ",".join(f"{MODULE}:{name}" for name in modules)
    environment = {"PYTHONPATH": str(ROOT)}
    with (
        ServerProcess(
            tmp_path, allow_custom=allowed, kernel=kernel, environment=environment
        ) as server,
        carousel.Client(server.target) as client,
    ):
        for name, module in modules.items():
            expected = np.stack([plain_loop(module, rows) for rows in x])
            sessions = [client.session(name) for _ in range(SESSIONS)]
            found = np.stack([s.steps(rows[:5]) for s, rows in zip(sessions, x, strict=True)])
            np.testing.assert_allclose(found, expected[:, :5], rtol=1e-4, atol=1e-5)
            for t in range(5, STEPS):
                batch = client.batch(sessions)
                np.testing.assert_allclose(
                    batch.step(x[:, t]), expected[:, t], rtol=1e-4, atol=1e-5
                )
            whole = client.infer(name, x[0])
            np.testing.assert_allclose(whole, expected[0], rtol=1e-4, atol=1e-5)
