"""A session with resets gives what torch's own module gives on each episode alone, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from carousel_models import load, save
from carousel_models.cells import GRUResetBefore
from carousel_server.core.ports import StepBlock
from tests.parity.conftest import KERNELS
from tests.unit.engine.fakes import RecordingSink, Rig

WIDTH, HIDDEN, STEPS, SESSIONS = 5, 8, 60, 7
TOLERANCE = 2e-6
"""The same equations: float32 against float64."""

MODULES: dict[str, type[nn.Module]] = {
    "RNN": nn.RNN,
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "GRUResetBefore": GRUResetBefore,
}


def alone(module: nn.Module, x: np.ndarray, resets: np.ndarray, state: Any = None) -> np.ndarray:
    """Outputs [T, hidden] of the module in float64, each episode of x [T, width] as a sequence of its own.

    `state` is what each begins with, as torch's modules take it.
    """
    starts = [0, *np.flatnonzero(resets).tolist(), len(x)]
    wide = module.double()
    with torch.inference_mode():
        parts = [
            wide(torch.from_numpy(x[a:b]).double()[:, None], state)[0][:, 0]
            for a, b in itertools.pairwise(starts)
            if a < b
        ]
    return torch.cat(parts).numpy()


def served(
    rig: Rig,
    x: np.ndarray,
    resets: np.ndarray,
    rng: np.random.Generator,
    initials: Sequence[str] = ("",),
) -> np.ndarray:
    """Outputs of sessions [n, T, width] that come in blocks of random sizes, many at a time.

    They begin with `initials` in turn.
    """
    sink = RecordingSink()
    refs = [rig.open(initial=initials[tag % len(initials)]) for tag in range(len(x))]
    for tag, ref in enumerate(refs):
        rig.bind(ref, sink, tag)
    sent = [0] * len(x)
    while min(sent) < x.shape[1]:
        for tag, done in enumerate(sent):
            count = min(int(rng.integers(0, 9)), x.shape[1] - done)
            if not count:
                continue
            end = done + count
            data, marks = x[tag, done:end].tobytes(), resets[tag, done:end].tobytes()
            block = StepBlock(sink, [tag], [refs[tag]], [done + 1], count, data, resets=marks)
            rig.engine.submit(block)
            sent[tag] = end
        for _ in range(int(rng.integers(1, 4))):
            rig.tick()
        if rng.random() < 0.5:
            rig.settle()
    rig.settle()
    assert not sink.refusals
    outputs = np.zeros((*x.shape[:2], HIDDEN), np.float32)
    for step in sink.steps:
        outputs[step.tag, step.seq - 1] = step.row
    return outputs


@pytest.mark.parametrize("chunk_steps", [1, 8])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", MODULES)
def test_each_episode_is_what_the_module_makes_of_it_alone(
    tmp_path: Path, kind: str, kernel: str, chunk_steps: int
) -> None:
    torch.manual_seed(0)
    module = MODULES[kind](WIDTH, HIDDEN, num_layers=2)
    save(tmp_path / "m", stack=module)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SESSIONS, STEPS, WIDTH)).astype("<f4")
    resets = rng.random((SESSIONS, STEPS)) < 0.2
    resets[0] = False
    resets[1] = True
    model = load(tmp_path / "m", device="cpu", kernel=kernel)
    rig = Rig(model, slots=SESSIONS, max_batch=5, chunk_steps=chunk_steps, window_steps=64)
    found = served(rig, x, resets, rng)
    for tag in range(SESSIONS):
        wanted = alone(module, x[tag], resets[tag])
        np.testing.assert_allclose(found[tag], wanted, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("chunk_steps", [1, 8])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_each_episode_begins_with_the_state_that_its_session_chose(
    tmp_path: Path, kind: str, kernel: str, chunk_steps: int
) -> None:
    torch.manual_seed(0)
    module = MODULES[kind](WIDTH, HIDDEN, num_layers=2)
    learned: dict[str, Any] = {}
    for name in ("", "anna", "otto"):
        parts = tuple(torch.randn(2, 1, HIDDEN) for _ in range(1 + (kind == "LSTM")))
        learned[name] = parts if len(parts) > 1 else parts[0]
    named = {name: state for name, state in learned.items() if name}
    save(tmp_path / "m", stack=module, initial=learned[""], initials=named)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SESSIONS, STEPS, WIDTH)).astype("<f4")
    resets = rng.random((SESSIONS, STEPS)) < 0.2
    model = load(tmp_path / "m", device="cpu", kernel=kernel)
    rig = Rig(model, slots=SESSIONS, max_batch=5, chunk_steps=chunk_steps, window_steps=64)
    names = list(learned)
    found = served(rig, x, resets, rng, names)
    for tag in range(SESSIONS):
        state = learned[names[tag % len(names)]]
        wide = tuple(s.double() for s in state) if isinstance(state, tuple) else state.double()
        wanted = alone(module, x[tag], resets[tag], wide)
        np.testing.assert_allclose(found[tag], wanted, rtol=TOLERANCE, atol=TOLERANCE)
