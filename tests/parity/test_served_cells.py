"""Newer cells through the engine: any batch, park and activate, death and restart, against the equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from carousel_models import RecurrentModel, load
from carousel_models.spec import FeaturesInput, LayerSpec, LinearHead
from carousel_server.core.ports import Infer, StepBlock
from carousel_server.core.types import Durability, SessionRef
from tests.parity import reference
from tests.parity.conftest import MakePackage
from tests.unit.engine.durable_rig import DurableRig
from tests.unit.engine.fakes import RecordingSink, Rig

WIDTH, STEPS = 2, 12
LAYERS: dict[str, dict[str, Any]] = {
    "peepholes": {"cell": "lstm", "options": {"peepholes": True}},
    "min_gru": {"cell": "min_gru"},
    "min_lstm": {"cell": "min_lstm"},
    "slstm": {"cell": "slstm", "options": {"heads": 2}},
    "mlstm": {"cell": "mlstm", "options": {"heads": 2}},
    "diagonal": {"cell": "diagonal", "options": {"skip": True}, "proj_size": WIDTH},
    "mamba": {"cell": "mamba"},
}
RANKS = {"peepholes": [1, 1], "min_gru": [1], "min_lstm": [1], "slstm": [1, 1, 1, 1], "mlstm": [3, 2, 1],
         "diagonal": [1, 1], "mamba": [2, 2]}  # fmt: skip
TOLERANCE = 1e-5


@pytest.fixture(params=LAYERS)
def case(
    request: pytest.FixtureRequest, make_package: MakePackage
) -> tuple[RecurrentModel, np.ndarray, np.ndarray]:
    """A model, inputs [steps, WIDTH], and the outputs by the equations in float64 [steps, 1]."""
    stack = (LayerSpec(hidden=8, **LAYERS[request.param]),)
    package = make_package(input=FeaturesInput(width=WIDTH), stack=stack, head=LinearHead(width=1))
    inputs = np.random.default_rng(5).normal(size=(STEPS, WIDTH)).astype(np.float32)
    model = load(package)
    assert [len(spec.shape) for spec in model.state_specs] == RANKS[request.param]
    return model, inputs, reference.run(package, inputs)["y"]


def block(
    sink: RecordingSink, ref: SessionRef, seq: int, rows: np.ndarray, tag: int = 1
) -> StepBlock:
    return StepBlock(sink, [tag], [ref], [seq], len(rows), rows.astype("<f4").tobytes())


def assert_close(sink: RecordingSink, expected: np.ndarray) -> None:
    assert not sink.refusals
    found = sink.of(1)
    assert [seq for seq, _ in found] == list(range(1, len(expected) + 1))
    rows = np.array([row for _, row in found])
    np.testing.assert_allclose(rows, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_parking_and_kill_minus_nine(case: tuple[RecurrentModel, np.ndarray, np.ndarray]) -> None:
    model, inputs, expected = case
    rig, sink = DurableRig(model), RecordingSink()
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, sink)
    rig.engine.submit(block(sink, ref, 1, inputs[:4]))
    rig.rest()
    rig.now += 100
    rig.rest()
    assert rig.metrics.moves == ["parked"]
    ref = rig.resume()
    rig.attach(ref, sink, ack=4)
    rig.engine.submit(block(sink, ref, 5, inputs[4:8]))
    rig.rest()
    rig = rig.restart()
    ref = rig.resume()
    rig.attach(ref, sink, ack=8)
    rig.engine.submit(block(sink, ref, 9, inputs[8:]))
    rig.rest()
    assert_close(sink, expected)


def test_sessions_do_not_see_each_other(
    case: tuple[RecurrentModel, np.ndarray, np.ndarray],
) -> None:
    """Neighbours with large numbers join and leave, on rows that others had before."""
    model, inputs, expected = case
    rig, sink, noise = (
        Rig(model, slots=6, max_batch=4, window_steps=16),
        RecordingSink(),
        RecordingSink(),
    )
    ref = rig.session(sink)
    for seq, row in enumerate(inputs, 1):
        others = [rig.session(noise, tag) for tag in range(2, 2 + seq % 5)]
        for tag, other in enumerate(others, 2):
            rig.engine.submit(block(noise, other, 1, np.full((1, WIDTH), 10.0 * tag), tag))
        rig.engine.submit(block(sink, ref, seq, row[None]))
        rig.settle()
        for other in others:
            rig.close(other)
    assert_close(sink, expected)


def test_whole_sequences(case: tuple[RecurrentModel, np.ndarray, np.ndarray]) -> None:
    model, inputs, expected = case
    rig = Rig(model, slots=4)
    calls = [Infer(inputs[:length].tobytes()) for length in (STEPS, 1, 7)]
    for call in calls:
        rig.engine.submit(call)
    rig.settle()
    for call, length in zip(calls, (STEPS, 1, 7), strict=True):
        found = call.reply.result(0).view("<f4").reshape(length, 1)
        np.testing.assert_allclose(found, expected[:length], rtol=TOLERANCE, atol=TOLERANCE)
