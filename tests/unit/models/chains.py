"""Models of parts in memory, and how they run: step by step, as whole sequences, in company."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from carousel_models.creating import random_tensors
from carousel_models.kernels import Kernel
from carousel_models.loading import build
from carousel_models.model import RecurrentModel
from carousel_models.spec import FeaturesInput, Manifest
from carousel_models.tensors import expected_tensors

Tensors = dict[str, Tensor]


def made(
    width: int, *parts: Any, kernel: Kernel | None = None, seed: int = 0, **fields: Any
) -> tuple[RecurrentModel, Tensors]:
    """A model of parts with random weights, and the weights in float64 without "parts."."""
    manifest = Manifest(
        name="m", fingerprint="0" * 64, input=FeaturesInput(width=width), parts=parts, **fields
    )
    infos = expected_tensors(manifest)
    tensors = {
        name: tensor.to(getattr(torch, infos[name].dtype))
        for name, tensor in random_tensors(manifest, seed).items()
    }
    named = {name.removeprefix("parts."): tensor.double() for name, tensor in tensors.items()}
    return build(manifest, tensors, kernel=kernel), named


def random_rows(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stepped(model: RecurrentModel, x: Tensor) -> Tensor:
    """Rows [B, T, W] of x [B, T, width], one step of all sequences after the other."""
    state, rows = model.initial_state(len(x)), []
    with torch.inference_mode():
        for step in x.unbind(1):
            raw, state = model.step(step, state)
            rows.append(raw)
    return torch.stack(rows, dim=1)


def check_pieces(model: RecurrentModel, x: Tensor, lengths: Sequence[int]) -> None:
    """Whole sequences of different lengths, in two pieces, end where their steps end."""
    first = [length // 2 for length in lengths]
    with torch.inference_mode():
        one, state = model.sequence(x, torch.tensor(first))
        rest = [length - begun for length, begun in zip(lengths, first, strict=True)]
        later = torch.stack([row.roll(-begun, 0) for row, begun in zip(x, first, strict=True)])
        two, state = model.sequence(later, torch.tensor(rest), state)
        for number, (begun, left) in enumerate(zip(first, rest, strict=True)):
            found = torch.cat((one[number, :begun], two[number, :left]))
            own, rows = model.initial_state(1), [found[:0]]
            for row in x[number, : begun + left]:
                raw, own = model.step(row[None], own)
                rows.append(raw)
            torch.testing.assert_close(found, torch.cat(rows), rtol=1e-5, atol=1e-6)
            for whole, last in zip(state, own, strict=True):
                torch.testing.assert_close(whole[number], last[0], rtol=1e-5, atol=1e-6)
