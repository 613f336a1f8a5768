"""Our step: by each kernel with its state at hand (D1), and on random rows of a full slab (D2)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from carousel_models import Manifest, RecurrentModel
from carousel_models.cells import State
from carousel_models.creating import random_tensors
from carousel_models.kernels import Kernel, choose
from carousel_models.loading import build
from carousel_models.spec import FeaturesInput, uniform_stack
from carousel_server.rows.slab import Slab

from .cases import Case
from .timing import Run

_SLAB_BYTES = 1 << 28
_DRAWS = 64  # sets of random rows, taken in turns


def runs(case: Case) -> Iterator[tuple[str, Run]]:
    """D1 as `ours` and `reference`, D2 as `slab`."""
    cpu = torch.device("cpu")
    native, plain = (model_of(case, choose(name, cpu), cpu) for name in ("auto", "reference"))
    yield "ours", alone(case, native)
    yield "slab", on_slab(case, native)
    yield "reference", alone(case, plain)


def model_of(case: Case, kernel: Kernel, device: torch.device) -> RecurrentModel:
    """Random weights."""
    manifest = Manifest(
        name="step",
        fingerprint="0" * 64,
        input=FeaturesInput(width=case.hidden),
        stack=uniform_stack(case.cell, case.layers, case.hidden),
        dtype=case.dtype,
    )
    tensors = {
        name: tensor.to(device, case.torch_dtype if tensor.dim() == 2 else None)
        for name, tensor in random_tensors(manifest, 0).items()
    }
    return build(manifest, tensors, kernel=kernel)


def alone(case: Case, model: RecurrentModel) -> Run:
    """D1: the state is at hand, and every step reads the same."""
    x = torch.randn(case.batch, case.hidden, device=model.device)
    state = model.initial_state(case.batch)
    step = model.kernel.recorded(lambda x: _flat(model.step(x, state)))
    return partial(step, x)


def on_slab(case: Case, model: RecurrentModel) -> Run:
    """D2: random rows of a slab of 256 MiB, or of the batch if that is more."""
    slots = max(case.batch, min(1 << 16, _SLAB_BYTES // model.state_bytes))
    slab = Slab(model.state_specs, slots, model.device, model.kernel)
    x = torch.randn(case.batch, case.hidden, device=model.device)
    draws = [torch.randperm(slots, device=model.device)[: case.batch] for _ in range(_DRAWS)]
    rows_of = cycle(draws)
    step = model.kernel.recorded(lambda x, rows: _flat(model.step(x, slab.tensors, rows)))

    def run() -> None:
        rows = next(rows_of)
        _, *state = step(x, rows)
        slab.scatter(rows, tuple(state))

    return run


def _flat(stepped: tuple[Tensor, State]) -> tuple[Tensor, ...]:
    y, state = stepped
    return (y, *state)
