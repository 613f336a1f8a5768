"""Learned and named initial states against the equations in float64, on every path through the server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from carousel_models import load, save
from carousel_models.spec import FeaturesInput, uniform_stack
from carousel_models.states import InitialState
from carousel_server.core.ports import Infer, StepBlock
from tests.parity import reference
from tests.parity.conftest import (
    KERNELS,
    TOLERANCE,
    MakePackage,
    difference,
    random_input,
    run_steps,
    run_whole,
)
from tests.unit.engine.fakes import RecordingSink, Rig

CELLS = ["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before"]
STEPS = 12


def learned(cell: str, layers: int = 2) -> dict[str, Any]:
    """A stack with a stored h (and c) of every layer, and a voice that differs in its last h."""
    names = tuple(
        f"{n}.{s}" for n in range(layers) for s in (("h", "c") if cell == "lstm" else ("h",))
    )
    voice = InitialState(name="voice", stored=(f"{layers - 1}.h",))
    return {
        "input": FeaturesInput(width=5),
        "stack": uniform_stack(cell, layers, 7),  # type: ignore[arg-type]
        "initial": (InitialState(stored=names), voice),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_steps_and_wholes_follow_the_equations(
    make_package: MakePackage, cell: str, dtype: str
) -> None:
    package = make_package(**learned(cell), dtype=dtype)
    for kernel in KERNELS:
        model = load(package, kernel=kernel)
        x = random_input(model.manifest, STEPS)
        expected, from_zeros = reference.run_raw(package, x), without(package, x)
        assert difference(expected, from_zeros) > 3 * TOLERANCE[dtype]
        assert difference(run_whole(model, x), expected) <= TOLERANCE[dtype]
        assert difference(run_steps(model, x), expected) <= TOLERANCE[dtype]


def without(package: Any, x: Any) -> Any:
    """The equations from zeros."""
    tensors = reference.read_safetensors(package / "model.safetensors")
    zeros = {name: 0 * value for name, value in tensors.items() if name.startswith("initial.")}
    original = reference.read_safetensors
    try:
        reference.read_safetensors = lambda _: tensors | zeros
        return reference.run_raw(package, x)
    finally:
        reference.read_safetensors = original


@pytest.mark.parametrize("chunk_steps", [1, 4])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cell", CELLS)
def test_sessions_and_sequences_of_a_server(
    make_package: MakePackage, cell: str, kernel: str, chunk_steps: int
) -> None:
    package = make_package(**learned(cell))
    model = load(package, kernel=kernel)
    x = random_input(model.manifest, STEPS)
    expected = reference.run_raw(package, x)
    rig, sink = Rig(model, slots=4, chunk_steps=chunk_steps, window_steps=16), RecordingSink()
    for tag in range(6):  # also on rows that other sessions have left
        ref = rig.session(sink, tag)
        rig.engine.submit(StepBlock(sink, [tag], [ref], [1], STEPS, x.tobytes()))
        rig.settle()
        rows = np.array([row for _, row in sink.of(tag)])
        assert difference(rows, expected) <= TOLERANCE["float32"]
        rig.close(ref)
    call = Infer(x.tobytes())
    rig.engine.submit(call)
    rig.settle()
    whole = call.reply.result(timeout=0).view("<f4")
    assert difference(whole, expected) <= TOLERANCE["float32"]


@pytest.mark.parametrize("module", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_module_of_torch_with_a_learned_state(tmp_path: Any, module: Any) -> None:
    torch.manual_seed(0)
    own = module(5, 7, 2)
    parts = tuple(nn.Parameter(torch.randn(2, 1, 7)) for _ in range(1 + (module is nn.LSTM)))
    given = parts if len(parts) > 1 else parts[0]
    save(tmp_path / "m", stack=own, initial=given)
    x = torch.randn(STEPS, 5)
    expected = own(x[:, None], given)[0][:, 0].detach().numpy()
    for kernel in KERNELS:
        model = load(tmp_path / "m", kernel=kernel)
        assert difference(run_steps(model, x.numpy()), expected) <= TOLERANCE["float32"]
        assert difference(run_whole(model, x.numpy()), expected) <= TOLERANCE["float32"]
