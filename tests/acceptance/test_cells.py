"""Built-in cells against the packages of their authors, or the best known ones: minGRU-pytorch and xlstm.

Weights go from the original module into ours, through a package, to steps and whole sequences. The rest of
xlstm needs libraries that are not here, so its modules are imported without the package's own first file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carousel_models import RecurrentModel, load, save
from carousel_models.cells import MLSTM, SLSTM, MinGRU, MinLSTM, RecurrentLayers

from .originals import importable, originals

STEPS, WIDTH = 50, 6
TOLERANCE = 1e-5


@pytest.fixture
def xlstm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of xlstm by its name."""
    importable(monkeypatch)
    package = ModuleType("xlstm")
    package.__path__ = [str(originals() / "xlstm")]
    monkeypatch.setitem(sys.modules, "xlstm", package)
    return lambda name: importlib.import_module(f"xlstm.{name}")


def served(folder: Path, module: RecurrentLayers) -> RecurrentModel:
    save(folder / "m", stack=module)
    return load(folder / "m")


def by_steps(model: RecurrentModel, x: Tensor) -> np.ndarray:
    """Rows of one sequence [T, width], step after step."""
    state, rows = model.initial_state(1), []
    with torch.inference_mode():
        for row in x:
            y, state = model.step(row[None], state)
            rows.append(y)
    return torch.cat(rows).numpy()


def whole(model: RecurrentModel, x: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.sequence(x[None], torch.tensor([len(x)]))[0][0].numpy()


def assert_equal(model: RecurrentModel, x: Tensor, expected: Tensor) -> None:
    wanted = expected.detach().numpy()
    assert wanted.shape == (STEPS, model.manifest.output_width)
    assert wanted.std() > 1e-2  # otherwise nothing was compared
    for run in (by_steps, whole):
        np.testing.assert_allclose(run(model, x), wanted, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "gates", "ours"),
    [("minGRU", "to_hidden_and_gate", MinGRU), ("minLSTM", "to_hidden_and_f_i_gate", MinLSTM)],
)
@pytest.mark.parametrize("expansion", [1.0, 1.5])
def test_mingru_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, gates: str, ours: Any,
    expansion: float,
) -> None:  # fmt: skip
    """Its parallel form in log space, and its form for one step after the other."""
    importable(monkeypatch)
    torch.manual_seed(0)
    original = getattr(importlib.import_module(f"minGRU_pytorch.{name}"), name)(WIDTH, expansion)
    hidden = int(WIDTH * expansion)
    projected = WIDTH if expansion > 1 else 0
    module = ours(WIDTH, hidden, bias=False, positive=True, proj_size=projected)
    weights = {"weight_ih_l0": getattr(original, gates).weight}
    weights |= {"weight_hr_l0": original.to_out.weight} if projected else {}
    module.load_state_dict(weights)
    model = served(tmp_path, module)
    x = torch.randn(STEPS, WIDTH)
    with torch.no_grad():
        assert_equal(model, x, original(x[None])[0])
        rows, before = [], None
        for row in x:
            out, before = original(row[None, None], before, return_next_prev_hidden=True)
            rows.append(out[0, 0])
        assert_equal(model, x, torch.stack(rows))


@pytest.mark.parametrize("heads", [1, 2])
def test_the_slstm_of_xlstm(tmp_path: Path, xlstm: Any, heads: int) -> None:
    """Its backend in plain torch, with the gates of our W·x."""
    vanilla = xlstm("blocks.slstm.src.vanilla")
    torch.manual_seed(0)
    hidden, width = 8, 8 // heads
    module = SLSTM(WIDTH, hidden, heads=heads)
    weights = {name: value.detach() for name, value in module.stored(0).items()}
    x = torch.randn(STEPS, WIDTH)
    blocks = weights["weight_hh"].view(4, heads, width, width)
    states, *_ = vanilla.slstm_forward(
        (x @ weights["weight_ih"].T)[:, None],
        torch.zeros(4, 1, hidden),
        blocks.transpose(0, 1).reshape(heads, 4 * width, width),
        weights["bias_ih"],
        vanilla.slstm_pointwise_function_registry["slstm"],
    )
    assert_equal(served(tmp_path, module), x, states[0, 1:, 0])


@pytest.mark.parametrize("heads", [1, 2])
def test_the_mlstm_of_xlstm(tmp_path: Path, xlstm: Any, heads: int) -> None:
    """Its parallel and its recurrent backend, with our projections, without the 1e-6 that it adds below."""
    backends = xlstm("blocks.mlstm.backends")
    torch.manual_seed(0)
    hidden, width = 8, 8 // heads
    module = MLSTM(WIDTH, hidden, heads=heads)
    with torch.no_grad():  # gates that depend on x, some of them nearly closed
        module.get_parameter("weight_ih_l0")[-2 * heads :].normal_()
        module.get_parameter("bias_ih_l0")[-heads:] = 1
    weights = {name: value.detach() for name, value in module.stored(0).items()}
    x = torch.randn(STEPS, WIDTH)
    sums = x @ weights["weight_ih"].T + weights["bias_ih"]
    q, k, v, o = sums[:, : 4 * hidden].view(1, STEPS, 4, heads, width).permute(2, 0, 3, 1, 4)
    i, f = sums[:, 4 * hidden :].view(1, STEPS, 2, heads, 1).permute(2, 0, 3, 1, 4)
    opened = torch.sigmoid(o).transpose(1, 2).reshape(STEPS, hidden)
    model = served(tmp_path, module)
    parallel = backends.parallel_stabilized_simple(q, k, v, i, f, eps=0.0)
    assert_equal(model, x, opened * parallel.transpose(1, 2).reshape(STEPS, hidden))
    state = (torch.zeros(1, heads, width, width), torch.zeros(1, heads, width, 1))
    state += (torch.zeros(1, heads, 1, 1),)
    rows = []
    for t in range(STEPS):
        at = slice(t, t + 1)
        given = (part[:, :, at].clone() for part in (q, k, v, i, f))  # it changes its arguments
        h, state = backends.recurrent_step_stabilized_simple(*state, *given, eps=0.0)
        rows.append(h.reshape(hidden))
    assert_equal(model, x, opened * torch.stack(rows))
