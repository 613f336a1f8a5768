"""Programs on a CUDA device: TorchScript and torch.export move there, ONNX stays on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carousel_models import load
from tests.unit.programs.graphs import IN
from tests.unit.programs.test_stepping import model_of, written

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "pt2"])
def test_programs_give_the_same_numbers_as_on_the_cpu(tmp_path: Path, kind: str) -> None:
    plain = model_of(written(kind, tmp_path))
    model = load(tmp_path / "out" / "m", device="cuda")
    x = torch.randn(5, IN)
    with torch.inference_mode():
        y, state = model.step(x.cuda(), model.initial_state(5))
        expected, after = plain.step(x, plain.initial_state(5))
    assert {y.device.type, state[0].device.type} == {"cuda"}
    torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(state[0].cpu(), after[0], rtol=0, atol=1e-5)
