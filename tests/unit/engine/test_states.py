"""States of every type on every path of a session: steps, parking, copies, death and repetition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carousel_models import RecurrentModel, StateSpec, load
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import (
    Close,
    Draft,
    Export,
    Fork,
    Get,
    Import,
    Infer,
    Open,
    ReadState,
    StepBlock,
)
from carousel_server.core.types import Durability, OpenSpec, SessionRef
from carousel_server.engine.finite import all_finite, bad_rows, fault_of
from carousel_server.rows.snapshot import decode, encode
from tests.unit.models.test_initial import NAME, save_everything

from .durable_rig import DurableRig
from .fakes import RecordingSink, Rig, RunningSum

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


# -- named states, and states that a client gives


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> RecurrentModel:
    """A model with the default of `GIVEN`, and two voices."""
    path: Path = tmp_path_factory.mktemp("voices") / "voices"
    named: dict[str, Any] = {"anna": {"small": [7, 7, 7]}, "otto": {"large": 9, "half": [0, 1]}}
    save_everything(path, initial=GIVEN, initials=named)
    return load(path, allow_custom=[NAME])


def alone(model: RecurrentModel, initial: str, steps: int) -> list[list[float]]:
    state, rows = model.initial_state(1, initial), []
    for x in torch.from_numpy(INPUTS[:steps]):
        y, state = model.step(x[None], state)
        rows.append(y[0].tolist())
    return rows


NAMES = ["", "anna", "otto"]


def test_sessions_begin_as_they_choose(voices: RecurrentModel) -> None:
    rig = Rig(voices)
    sinks = {name: RecordingSink() for name in NAMES}
    for name, sink in sinks.items():
        ref = rig.open(initial=name)
        assert rig.run(Get(ref)).initial == name
        rig.bind(ref, sink)
        step(rig, sink, ref, 1)
    rig.settle()
    for name, sink in sinks.items():
        assert [row for _, row in sink.of(1)] == alone(voices, name, 4), name


@pytest.mark.parametrize("name", NAMES)
def test_a_reset_goes_back_to_the_chosen_state(voices: RecurrentModel, name: str) -> None:
    rig, sink = Rig(voices), RecordingSink()
    ref = rig.open(initial=name)
    rig.bind(ref, sink)
    step(rig, sink, ref, 1)
    data = INPUTS[:4].tobytes()
    rig.engine.submit(StepBlock(sink, [1], [ref], [5], 4, data, resets=b"\1\0\0\0"))
    rig.settle()
    rows = [row for _, row in sink.of(1)]
    assert rows[:4] == rows[4:] == alone(voices, name, 4)


def test_copies_and_snapshots_remember_the_chosen_state(voices: RecurrentModel) -> None:
    rig, sink = Rig(voices), RecordingSink()
    ref = rig.open(initial="otto")
    rig.bind(ref, sink)
    step(rig, sink, ref, 1)
    rig.settle()
    data, view = rig.run(Export(ref))
    assert (decode(data).initial, view.initial) == ("otto", "otto")
    for command in (Import(data, OpenSpec("t", "")), Fork(ref, OpenSpec("t", ""))):
        copy, view = rig.run(command)
        assert view.initial == "otto"
        heard = RecordingSink()
        rig.bind(copy, heard)
        again = INPUTS[:4].tobytes()
        rig.engine.submit(StepBlock(heard, [1], [copy], [5], 4, again, resets=b"\1\0\0\0"))
        rig.settle()
        assert [row for _, row in heard.of(1)] == alone(voices, "otto", 4)


def test_a_snapshot_of_a_name_that_the_model_lacks_is_refused(voices: RecurrentModel) -> None:
    rig = Rig(voices)
    data, _ = rig.run(Export(rig.open()))
    strange = encode(replace(decode(data), initial="eve"))
    with pytest.raises(CarouselError, match="SNAPSHOT_INVALID"):
        rig.run(Import(strange, OpenSpec("t", "")))


GIVEN_BYTES = (
    ("small", np.array([4, 5, 6], "<i4").tobytes()),
    ("brain", np.array([0x4080, 0x3F80], "<u2").tobytes()),  # 4.0 and 1.0
)


def named_state(rig: Rig, ref: SessionRef) -> dict[str, bytes]:
    state, view = rig.run(ReadState(ref))
    assert view.id
    return dict(state)


def test_a_given_state_begins_where_it_says_and_the_rest_as_chosen(voices: RecurrentModel) -> None:
    rig = Rig(voices)
    plain = named_state(rig, rig.open(initial="otto"))
    found = named_state(rig, rig.open(initial="otto", state=GIVEN_BYTES))
    assert found == plain | dict(GIVEN_BYTES)
    assert list(found) == [spec.name for spec in voices.state_specs]


@pytest.mark.parametrize("durability", [Durability.ASYNC, Durability.SYNC])
@pytest.mark.parametrize("steps", [0, 4])
def test_what_a_session_began_with_survives_a_death(
    voices: RecurrentModel, steps: int, durability: Durability
) -> None:
    rig, sink = DurableRig(voices), RecordingSink()
    spec = {"initial": "anna", "state": GIVEN_BYTES, "durability": durability}
    ref = rig.open_durable(**spec)
    before = named_state(rig, ref)
    assert before["small"] == GIVEN_BYTES[0][1]
    rig.attach(ref, sink)
    if steps:
        step(rig, sink, ref, 1, steps)
    rig.rest()
    now, rig = named_state(rig, ref), rig.restart()
    assert rig.until(rig.catalog.peek("t", "s")).initial == "anna"
    ref = rig.resume()
    assert named_state(rig, ref) == now
    assert rig.run(Get(ref)).initial == "anna"


def test_a_durable_open_is_in_the_store_with_its_state_at_once(voices: RecurrentModel) -> None:
    """No reply has been read and no step has run when the server dies."""
    rig = DurableRig(voices)
    rig.open_durable(initial="anna", state=GIVEN_BYTES)
    rig = rig.restart()
    found = named_state(rig, rig.resume())
    assert found["small"] == GIVEN_BYTES[0][1]
    assert found["half"] == np.array(GIVEN["half"], "<f2").tobytes()


def test_an_open_that_is_repeated_finds_the_session(voices: RecurrentModel) -> None:
    for rig in (Rig(voices), DurableRig(voices)):
        durability = Durability.ASYNC if isinstance(rig, DurableRig) else Durability.NONE
        spec = OpenSpec("t", "s", durability, initial="anna", state=GIVEN_BYTES)

        def opened(asked: OpenSpec, rig: Rig = rig) -> Any:
            if isinstance(rig, DurableRig):
                return rig.until(rig.catalog.open(rig.engine, asked))
            return rig.run(Open(asked))

        ref, _ = opened(spec)
        assert opened(spec)[0] == ref
        assert opened(replace(spec, initial="", state=()))[0] == ref
        with pytest.raises(CarouselError, match="SESSION_EXISTS"):
            opened(replace(spec, initial="otto"))


def test_a_given_state_comes_back_after_parking(voices: RecurrentModel) -> None:
    rig = DurableRig(voices)
    before = named_state(rig, rig.open_durable(initial="otto", state=GIVEN_BYTES))
    rig.rest()
    rig.now += 100
    rig.rest()
    assert rig.metrics.moves == ["parked"]
    assert rig.until(rig.catalog.peek("t", "s")).initial == "otto"
    assert named_state(rig, rig.resume()) == before


def test_the_state_is_that_of_the_steps_that_have_run(voices: RecurrentModel) -> None:
    rig, sink = Rig(voices), RecordingSink()
    ref = rig.session(sink)
    begun = named_state(rig, ref)
    step(rig, sink, ref, 1, 1)
    rig.settle()
    found = named_state(rig, ref)
    count = np.frombuffer(begun["large"], "<i8") + 2
    assert found["large"] == count.tobytes()
    assert found == {name: array.tobytes() for name, array in state_of(rig, ref).items()}


def test_a_state_cannot_be_read_while_tokens_are_drawn() -> None:
    rig = DurableRig(RunningSum(tokens=True))
    ref = rig.open_durable()
    rig.generate(ref, [1], max_tokens=1000)
    rig.tick()
    with pytest.raises(CarouselError, match="SESSION_BUSY"):
        rig.run(ReadState(ref))


def test_whole_sequences_begin_as_they_choose(voices: RecurrentModel) -> None:
    rig = Rig(voices)
    calls = [Infer(INPUTS[:n].tobytes(), initial=name) for n in (3, 5) for name in NAMES]
    for call in calls:
        rig.engine.submit(call)
    rig.settle()
    for call in calls:
        found = call.reply.result(timeout=0).view("<f4").tolist()
        assert found == alone(voices, call.initial, len(found)), call.initial


def test_a_draft_of_a_server_that_drains_is_refused(voices: RecurrentModel) -> None:
    rig = Rig(voices)
    rig.engine.drain()
    rig.now += 1
    rig.tick()
    with pytest.raises(CarouselError, match="DRAINING"):
        rig.run(Draft(OpenSpec("t", "s", initial="anna")))
