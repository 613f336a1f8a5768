"""Models of sound from other libraries: their rows become frames of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from e2e.command import carousel
from unit.programs.graphs import IN, equations, write_onnx

from carousel_models import PackageError, RecurrentModel, import_file, load
from carousel_models.importing.imported import Imported, NoOriginalError
from carousel_models.importing.sound import as_frames
from carousel_models.probe import run_steps, run_whole
from carousel_models.spec import FeaturesInput, FramesInput, Normalization, TokensInput

RATE = 8000


def imported(file: Path, **options: Any) -> tuple[RecurrentModel, list[str]]:
    notes: list[str] = []
    import_file(
        file, name="m", dir=file.parent / "out", note=notes.append, check=True, overwrite=True,
        rate=RATE, **options,
    )  # fmt: skip
    return load(file.parent / "out" / "m"), notes


@pytest.mark.parametrize(("encoding", "scale"), [("pcm16", 2.0**-15), ("float32", 1.0)])
def test_samples_give_the_rows_of_the_original(tmp_path: Path, encoding: Any, scale: float) -> None:
    model, notes = imported(write_onnx(tmp_path / "step.onnx"), encoding=encoding)
    assert model.manifest.input == FramesInput(hop=IN, rate=RATE, encoding=encoding)
    assert notes[-1] == "the package gives the original's rows"
    x = torch.randint(-30000, 30000, (20, IN), generator=torch.Generator().manual_seed(3))
    sent = x.to(torch.int16) if encoding == "pcm16" else x.float() / 2**15
    expected = equations(sent.double().numpy() * scale)
    for rows in (run_steps(model, sent), run_whole(model, sent)):
        np.testing.assert_allclose(rows.numpy(), expected, atol=2e-6)


def test_a_program_keeps_its_context_of_scaled_samples(tmp_path: Path) -> None:
    model, notes = imported(write_onnx(tmp_path / "step.onnx"), context=2)
    assert model.manifest.input.row.shape == (IN - 2,)
    assert notes[-1] == "the package gives the original's rows"
    x = torch.tensor([[1000], [-2000], [3000]], dtype=torch.int16)
    joined = np.array([[0, 0, 1000], [0, 1000, -2000], [1000, -2000, 3000]]) / 2.0**15
    np.testing.assert_allclose(run_steps(model, x).numpy(), equations(joined), atol=2e-6)


@pytest.mark.parametrize(
    "source",
    [
        TokensInput(vocabulary=4, embedding=3),
        FeaturesInput(width=1, normalization=Normalization(mean=(0.0,), std=(2.0,))),
    ],
)
def test_rows_that_are_no_samples_are_refused(source: Any) -> None:
    with pytest.raises(PackageError, match="--rate is for models whose rows are plain samples"):
        as_frames(Imported({"input": source}, {}), RATE, "pcm16")


def test_rows_of_an_original_that_are_floats_are_not_compared_with_samples() -> None:
    given = Imported({"input": FeaturesInput(width=2)}, {}, original=lambda: (1, 2))
    assert as_frames(given, RATE, "float32").original() == (1, 2)
    with pytest.raises(NoOriginalError, match="samples of 16 bits"):
        as_frames(given, RATE, "pcm16").original()


def test_the_command_takes_a_rate_and_an_encoding(tmp_path: Path) -> None:
    file = str(write_onnx(tmp_path / "step.onnx"))
    words = ("models", "import", file, "--dir", str(tmp_path / "out"), "--rate", "8000")
    assert carousel(*words, "--check").returncode == 0
    assert load(tmp_path / "out" / "step").manifest.input == FramesInput(hop=IN, rate=RATE)
    shown = carousel("models", "show", "step", "--dir", str(tmp_path / "out"))
    assert f"frames:{IN}@8000" in shown.stdout
    done = carousel(*words, "--encoding", "mp3")
    assert (done.returncode, "use pcm16 or float32" in done.stderr) == (2, True)
    done = carousel("models", "import", file, "--dir", str(tmp_path), "--rate", "99999999")
    assert done.returncode == 2
    assert "rate" in done.stderr
