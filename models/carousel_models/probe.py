"""The probe of a package: a short input with its correct outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor

from .errors import PackageError
from .model import RecurrentModel
from .spec import Architecture, FeaturesInput, FramesInput, TokensInput
from .tensors import TensorInfo
from .weights import read_tensors, stored_length

STEPS = 8
MAX_STEPS = 4096
"""Steps of a probe: of `save`, and of a reference at most."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2}
"""Greatest |difference| / (1 + |expected|) for each type. Rounding on other devices is well below."""


def probe_tensors(architecture: Architecture, steps: int = STEPS) -> dict[str, TensorInfo]:
    """Shapes of `probe.safetensors`: one sequence and its rows before transform and selection."""
    row = architecture.input.row
    return {
        "input": TensorInfo((steps, *row.shape), row.dtype),
        "raw": TensorInfo((steps, architecture.output_width), "float32"),
    }


def sample_input(model: RecurrentModel, rows: int, generator: torch.Generator) -> Tensor:
    """A random input on the CPU.

    It is int32[rows] tokens, uniform; float32[rows, features], normal around the model's constants; or
    samples [rows, hop] of int16 or float32, a tenth of the full scale.
    """
    source = model.manifest.input
    match source:
        case TokensInput():
            tokens = model.manifest.input_tokens
            return torch.randint(tokens, (rows,), generator=generator, dtype=torch.int32)
        case FeaturesInput():
            x = torch.randn(rows, source.width, generator=generator)
            if source.normalization is not None:
                mean, std = source.normalization.mean, source.normalization.std
                x = x * torch.tensor(std) + torch.tensor(mean)
            return x
        case FramesInput():
            x = 0.1 * torch.randn(rows, source.hop, generator=generator)
            if source.encoding == "float32":
                return x
            return (x * (1 << 15)).round().clamp(-(1 << 15), (1 << 15) - 1).to(torch.int16)
        case unknown:
            assert_never(unknown)


def make_probe(model: RecurrentModel, seed: int = 0) -> dict[str, Tensor]:
    """Runs a seeded random input.

    Raises:
        PackageError: a custom module or program fails, or an output is not finite.
    """
    x = sample_input(model, STEPS, torch.Generator().manual_seed(seed))
    with _foreign_failures(model):
        raw = run_whole(model, x).cpu()
    bad = (~raw.isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise PackageError(
            f"the model's output is NaN or infinite at step {int(bad[0])} of a random input; correct its "
            "weights, its normalization or its activations"
        )
    return {"input": x, "raw": raw}


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
    stored = read_tensors(path, _stored_tensors(model, path), torch.device("cpu"))
    x, expected = stored["input"], stored["raw"]
    source = model.manifest.input
    if isinstance(source, TokensInput) and not tokens_valid(x, model.manifest.input_tokens):
        raise PackageError(
            f"{path}: the probe holds tokens outside the vocabulary; save the model again"
        )
    with _foreign_failures(model):
        runs = [run_whole(model, x)] + ([run_steps(model, x)] if model.causal else [])
    error = max(_difference(run.cpu(), expected) for run in runs)
    tolerance = tolerance_of(model)
    if not error <= tolerance:  # NaN must fail too
        raise PackageError(
            f"{path}: the model does not reproduce its probe (difference {error:.3g}, tolerance "
            f"{tolerance:g}); the package is damaged or this device computes wrongly: save the model "
            "again, or try another device"
        )
    return error


def tolerance_of(model: RecurrentModel) -> float:
    """The tolerance of the model's type. A module or program may use another type than the manifest."""
    return TOLERANCE["bfloat16" if model.stack.half else model.manifest.dtype]


def _stored_tensors(model: RecurrentModel, path: Path) -> dict[str, TensorInfo]:
    """The tensors of the file, for as many steps as its outputs have."""
    steps = stored_length(path, "raw")
    return probe_tensors(model.manifest, steps if 0 < steps <= MAX_STEPS else STEPS)


def run_whole(model: RecurrentModel, x: Tensor) -> Tensor:
    """Raw rows float32[T, W] of one sequence [T, ...] at once."""
    with torch.inference_mode():
        raw, _ = model.sequence(on_device(model, x)[None], torch.tensor([len(x)]))
    return raw[0]


def run_steps(model: RecurrentModel, x: Tensor) -> Tensor:
    """Raw rows float32[T, W] of one sequence, one step at a time."""
    with torch.inference_mode():
        return plain_loop(model, x)


def plain_loop(model: RecurrentModel, x: Tensor) -> Tensor:
    """Raw rows of one sequence, step by step, in the caller's mode of torch."""
    state, rows = model.initial_state(1), []
    for row in on_device(model, x):
        raw, state = model.step(row[None], state)
        rows.append(raw)
    return torch.cat(rows)


@contextmanager
def _foreign_failures(model: RecurrentModel) -> Iterator[None]:
    """Turns any exception of a custom module or a program into a PackageError."""
    try:
        yield
    except Exception as error:
        foreign = model.manifest.foreign
        if not foreign:
            raise
        raise PackageError(f"{foreign} failed on its probe: {error!r}") from error


def on_device(model: RecurrentModel, x: Tensor) -> Tensor:
    """A sample as an input of the model."""
    tokens = isinstance(model.manifest.input, TokensInput)
    return x.to(model.device, torch.int64 if tokens else x.dtype)


def tokens_valid(x: Tensor, vocabulary: int) -> bool:
    """True if all tokens are in the vocabulary."""
    return bool(((x >= 0) & (x < vocabulary)).all())


def _difference(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / (1 + expected.abs())).max())
