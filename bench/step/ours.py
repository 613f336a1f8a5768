"""Our step: by each kernel with its state at hand (D1), and on random rows of a full slab (D2)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch

from carousel_models import Manifest, RecurrentModel
from carousel_models.creating import random_tensors
from carousel_models.kernels import choose
from carousel_models.loading import build
from carousel_models.spec import FeaturesInput, uniform_stack
from carousel_server.state.slab import Slab

from .cases import Case
from .timing import Run

_SLAB_BYTES = 1 << 28
_DRAWS = 64  # sets of random rows, taken in turns


def runs(case: Case) -> Iterator[tuple[str, Run]]:
    """D1 as `ours` and `reference`, D2 as `slab`."""
    native, reference = _model(case, "auto"), _model(case, "reference")
    yield "ours", _alone(case, native)
    yield "slab", _on_slab(case, native)
    yield "reference", _alone(case, reference)


def _model(case: Case, kernel: str) -> RecurrentModel:
    manifest = Manifest(
        name="step",
        fingerprint="0" * 64,
        input=FeaturesInput(width=case.hidden),
        stack=uniform_stack(case.cell, case.layers, case.hidden),
        dtype=case.dtype,
    )
    tensors = {
        name: tensor.to(case.torch_dtype) if tensor.dim() == 2 else tensor
        for name, tensor in random_tensors(manifest, 0).items()
    }
    return build(manifest, tensors, kernel=choose(kernel, torch.device("cpu")))


def _alone(case: Case, model: RecurrentModel) -> Run:
    x, state = torch.randn(case.batch, case.hidden), model.initial_state(case.batch)
    return lambda: model.step(x, state)


def _on_slab(case: Case, model: RecurrentModel) -> Run:
    slots = min(1 << 16, _SLAB_BYTES // model.state_bytes)
    slab = Slab(model.state_specs, slots, torch.device("cpu"), model.kernel)
    x = torch.randn(case.batch, case.hidden)
    draws = cycle([torch.randperm(slots)[: case.batch] for _ in range(_DRAWS)])

    def run() -> None:
        rows = next(draws)
        _, state = model.step(x, slab.tensors, rows)
        slab.scatter(rows, state)

    return run
