"""States of every type on every path of a session: steps, parking, copies, death and repetition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carousel_models import RecurrentModel, StateSpec, load
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Close, Export, Fork, Import, StepBlock
from carousel_server.core.types import Durability, OpenSpec, SessionRef
from carousel_server.engine.finite import all_finite, bad_rows, fault_of
from carousel_server.rows.snapshot import decode, encode
from tests.unit.models.test_initial import NAME, save_everything

from .durable_rig import DurableRig
from .fakes import RecordingSink, Rig

INPUTS = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
GIVEN = {
    "half": [1.5, -2.0],
    "brain": [1.0, 3.0],
    "small": [1, -2, 3],
    "flag": [[True, False], [False, True]],
    "phase": [1 + 2j, -3j],
    "lowest": float("inf"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RecurrentModel:
    path: Path = tmp_path_factory.mktemp("everything") / "everything"
    save_everything(path, initial=GIVEN)
    return load(path, allow_custom=[NAME])


@pytest.fixture(scope="module")
def expected(model: RecurrentModel) -> list[list[float]]:
    """The rows of one session alone."""
    state, rows = model.initial_state(1), []
    for x in torch.from_numpy(INPUTS):
        y, state = model.step(x[None], state)
        rows.append(y[0].tolist())
    return rows


def step(rig: Rig, sink: RecordingSink, ref: SessionRef, first: int, count: int = 4) -> None:
    data = INPUTS[first - 1 : first - 1 + count].tobytes()
    rig.engine.submit(StepBlock(sink, [1], [ref], [first], count, data))


def state_of(rig: Rig, ref: SessionRef) -> dict[str, np.ndarray]:
    return rig.engine._rows.slab.take(torch.tensor([ref.row]))


def assert_same_states(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


def test_a_session_begins_with_the_stored_values(model: RecurrentModel) -> None:
    rig = Rig(model)
    found = state_of(rig, rig.open())
    for name, values in GIVEN.items():
        if name != "brain":
            shape = found[name][0].shape
            assert found[name][0].tolist() == np.broadcast_to(values, shape).tolist(), name
    assert found["brain"][0].tolist() == [0x3F80, 0x4040]  # 1.0 and 3.0 in bfloat16
    assert float(found["double"][0]) == 1e-300


def test_export_import_and_fork(model: RecurrentModel, expected: list[list[float]]) -> None:
    rig, sink = Rig(model), RecordingSink()
    ref = rig.session(sink)
    step(rig, sink, ref, 1)
    rig.settle()
    data, _ = rig.run(Export(ref))
    assert_same_states(decode(encode(decode(data))).state, decode(data).state)
    copies = [
        rig.run(Import(data, OpenSpec("t", "")))[0],
        rig.run(Fork(ref, OpenSpec("t", "")))[0],
    ]
    for copy in copies:
        assert_same_states(state_of(rig, copy), state_of(rig, ref))
        heard = RecordingSink()
        rig.bind(copy, heard)
        step(rig, heard, copy, 5)
        rig.settle()
        assert [row for _, row in heard.of(1)] == expected[4:8]


def test_parking_and_kill_minus_nine(model: RecurrentModel, expected: list[list[float]]) -> None:
    rig, sink = DurableRig(model), RecordingSink()
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, sink)
    step(rig, sink, ref, 1)
    rig.rest()
    before = state_of(rig, ref)
    rig.now += 100
    rig.rest()
    assert rig.metrics.moves == ["parked"]
    ref = rig.resume()
    assert_same_states(state_of(rig, ref), before)
    rig.attach(ref, sink, ack=4)
    step(rig, sink, ref, 5)
    rig.rest()
    after, rig = state_of(rig, ref), rig.restart()
    ref = rig.resume()
    assert_same_states(state_of(rig, ref), after)
    rig.attach(ref, sink, ack=8)
    step(rig, sink, ref, 9)
    rig.rest()
    assert sink.of(1) == list(enumerate(expected, 1))


def test_a_session_that_never_stepped_begins_again_after_a_death(model: RecurrentModel) -> None:
    rig = DurableRig(model)
    begun = state_of(rig, rig.open_durable())
    rig.rest()
    rig = rig.restart()
    assert_same_states(state_of(rig, rig.resume()), begun)


def test_the_next_session_on_a_row_begins_anew(model: RecurrentModel) -> None:
    rig, sink = Rig(model, slots=1), RecordingSink()
    ref = rig.session(sink)
    begun = state_of(rig, ref)
    step(rig, sink, ref, 1)
    rig.settle()
    rig.run(Close(ref))
    assert_same_states(state_of(rig, rig.open()), begun)


def test_a_truth_value_that_is_neither_is_refused(model: RecurrentModel) -> None:
    rig = Rig(model)
    data, _ = rig.run(Export(rig.open()))
    taken = decode(data)
    taken.state["flag"] = np.array([[0, 1], [2, 1]], np.uint8).view(np.bool_)
    with pytest.raises(CarouselError, match="SNAPSHOT_INVALID"):
        rig.run(Import(encode(taken), OpenSpec("t", "")))


BAD: dict[str, Any] = {
    "half": np.array([1, np.nan], "<f2"),
    "brain": np.array([0x7F80, 0], "<u2"),
    "double": np.array(np.inf, "<f8"),
    "phase": np.array([0, complex(0, np.nan)], "<c8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_snapshot_with_a_state_that_is_not_finite(model: RecurrentModel, name: str) -> None:
    rig = Rig(model)
    data, _ = rig.run(Export(rig.open()))
    taken = decode(data)
    taken.state[name] = BAD[name]
    with pytest.raises(CarouselError, match=f"state '{name}' holds a NaN or an infinity"):
        rig.run(Import(encode(taken), OpenSpec("t", "")))


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_of_any_type_are_looked_at(
    dtype: torch.dtype, shape: tuple[int, ...], bad: float
) -> None:
    state = torch.ones((3, *shape), dtype=dtype)
    assert all_finite(state)
    state[1] = complex(0, bad) if dtype.is_complex else bad
    assert not all_finite(state)
    assert bad_rows(state).tolist() == [False, True, False]
    spec = StateSpec("s", shape, dtype)
    kind = "NaN" if bad != bad else "an infinity"
    assert fault_of(torch.zeros(2), [state[1]], [spec]) == f"state 's' has {kind} at place 0"
    unchecked = [torch.full_like(state[1], bad), state[1]]
    free = StateSpec("free", shape, dtype, finite=False)
    assert fault_of(torch.zeros(2), unchecked, [free, spec]).startswith("state 's' has")


def test_a_large_number_of_float64_is_finite() -> None:
    state = torch.full((2, 3), 1e300, dtype=torch.float64)
    assert all_finite(state)
    assert not bad_rows(state).any()


def test_a_step_that_leaves_a_state_infinite_is_refused(model: RecurrentModel) -> None:
    """1e5 is infinite in the state of float16. The output that is made of it is, too."""
    rig, sink = Rig(model), RecordingSink()
    ref = rig.session(sink)
    before = state_of(rig, ref)
    data = np.full((1, 2), 1e5, "<f4").tobytes()
    rig.run(StepBlock(sink, [1], [ref], [1], 1, data))
    rig.settle()
    assert sink.reasons == ["STEP_NOT_FINITE"]
    assert_same_states(state_of(rig, ref), before)
