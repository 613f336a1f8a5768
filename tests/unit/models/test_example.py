"""The example of the guide: train with plain PyTorch, save, load, and predict from raw values."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from carousel_models import load, read_manifest

EXAMPLE = Path(__file__).parents[3] / "examples" / "train_and_save.py"


def test_the_saved_model_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    example["main"](tmp_path, updates=60)
    assert "saved sine-lstm" in capsys.readouterr().out
    assert read_manifest(tmp_path / "sine-lstm").training["updates"] == 60
    model = load(tmp_path / "sine-lstm")
    raw_values = example["waves"](16, 50)
    with torch.inference_mode():
        predicted, _ = model.sequence(raw_values, torch.full((16,), 50))
    wanted = (raw_values[:, 1:] - example["MEAN"]) / example["STD"]
    error = (predicted[:, 10:-1] - wanted[:, 10:]).square().mean()
    assert error < wanted.var() / 4  # a constant would reach the variance
