"""The probe: a short input with the outputs it must give, carried by every package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .errors import PackageError
from .model import RecurrentModel
from .spec import Architecture, FeaturesInput
from .tensors import TensorInfo
from .weights import read_tensors

STEPS = 8
TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2}
"""Greatest |difference| / (1 + |expected|) per type: rounding on other devices stays well below."""


def probe_tensors(architecture: Architecture) -> dict[str, TensorInfo]:
    """Shapes of `probe.safetensors`: one sequence and its rows before transform and selection."""
    source = architecture.input
    features = isinstance(source, FeaturesInput)
    shape = (STEPS, source.raw_width) if features else (STEPS,)
    return {
        "input": TensorInfo(shape, "float32" if features else "int32"),
        "raw": TensorInfo((STEPS, architecture.output_width), "float32"),
    }


def make_probe(model: RecurrentModel, seed: int = 0) -> dict[str, Tensor]:
    """Runs a seeded random input: tokens uniform, features normal around the model's constants."""
    generator = torch.Generator().manual_seed(seed)
    source = model.manifest.input
    if isinstance(source, FeaturesInput):
        x = torch.randn(STEPS, source.width, generator=generator)
        if source.normalization is not None:
            mean, std = source.normalization.mean, source.normalization.std
            x = x * torch.tensor(std) + torch.tensor(mean)
    else:
        x = torch.randint(source.vocabulary, (STEPS,), generator=generator, dtype=torch.int32)
    with _foreign_failures(model):
        return {"input": x, "raw": run_whole(model, x).cpu()}


def check_probe(model: RecurrentModel, path: Path) -> float:
    """Runs the stored input as a whole and, if the model is causal, step by step.

    Args:
        model: as loaded.
        path: the package's probe.safetensors.

    Returns:
        The greatest relative difference, at most the tolerance.

    Raises:
        PackageError: the file is damaged, or the model does not reproduce its outputs.
    """
    stored = read_tensors(path, probe_tensors(model.manifest), torch.device("cpu"))
    x, expected = stored["input"], stored["raw"]
    source = model.manifest.input
    if not isinstance(source, FeaturesInput) and not _tokens_valid(x, source.vocabulary):
        raise PackageError(
            f"{path}: the probe holds tokens outside the vocabulary; save the model again"
        )
    with _foreign_failures(model):
        runs = [run_whole(model, x)] + ([run_steps(model, x)] if model.causal else [])
    error = max(_difference(run.cpu(), expected) for run in runs)
    tolerance = TOLERANCE[model.manifest.dtype]
    if not error <= tolerance:  # NaN must fail too
        raise PackageError(
            f"{path}: the model does not reproduce its probe (difference {error:.3g}, tolerance "
            f"{tolerance:g}); the package is damaged or this device computes wrongly: save the model "
            "again, or try another device"
        )
    return error


def run_whole(model: RecurrentModel, x: Tensor) -> Tensor:
    """Raw rows float32[T, W] of one sequence [T, ...] at once."""
    with torch.inference_mode():
        raw, _ = model.sequence(_on_device(model, x)[None], torch.tensor([len(x)]))
    return raw[0]


def run_steps(model: RecurrentModel, x: Tensor) -> Tensor:
    """The same, one step at a time."""
    state, rows = model.initial_state(1), []
    with torch.inference_mode():
        for row in _on_device(model, x):
            raw, state = model.step(row[None], state)
            rows.append(raw)
    return torch.cat(rows)


@contextmanager
def _foreign_failures(model: RecurrentModel) -> Iterator[None]:
    """A custom module may raise anything; a built-in stack that came this far does not fail."""
    try:
        yield
    except Exception as error:
        if model.manifest.custom is None:
            raise
        name = model.manifest.custom.module
        raise PackageError(f"custom module {name!r} failed on its probe: {error!r}") from error


def _on_device(model: RecurrentModel, x: Tensor) -> Tensor:
    return x.to(model.device, x.dtype if x.is_floating_point() else torch.int64)


def _tokens_valid(x: Tensor, vocabulary: int) -> bool:
    return bool(((x >= 0) & (x < vocabulary)).all())


def _difference(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / (1 + expected.abs())).max())
