"""Initial and given states on the wire: checked before an engine gets them, and read back by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.server import ServerProcess
from support.triton import TritonStubs
from support.wire import refused, unpack
from torch import nn

import carousel
from carousel_models import load, save
from carousel_protos.states import decode_state, encode_state
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports

F32, BF16, F64, BOOL = (
    pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_FLOAT64, pb.DATA_TYPE_BOOL,
)  # fmt: skip
H = pb.TensorSpec(name="h", dtype=F32, shape=[2])
HALF = pb.TensorSpec(name="half", dtype=BF16)
FLAG = pb.TensorSpec(name="flag", dtype=BOOL, shape=[2])
LOWEST = pb.TensorSpec(name="lowest", dtype=F64)


def opened(wire):
    return [c.spec for c in wire.engine.seen if isinstance(c, ports.Open)]


async def test_a_model_describes_its_states(wire):
    model = (await wire.stubs.models.GetModel(pb.GetModelRequest(name="echo"))).model
    assert list(model.states) == [H, HALF, FLAG, LOWEST]
    assert list(model.initials) == ["anna", "otto"]


async def test_an_open_hands_both_to_the_engine(wire):
    state = [encode_state(HALF, 1.0), encode_state(H, [1, 2])]
    session = await wire.stubs.open("echo", initial="anna", state=state)
    assert session.initial == "anna"
    [spec] = opened(wire)
    assert spec.initial == "anna"
    assert spec.state == (("half", b"\x80\x3f"), ("h", np.array([1, 2], "<f4").tobytes()))


async def test_a_bind_that_opens_does_too(wire):
    stream = await wire.stubs.attach()
    request = pb.OpenSessionRequest(model="echo", initial="otto", state=[encode_state(H, [3, 4])])
    assert (await stream.bind(1, open=request)).initial == "otto"
    assert opened(wire)[0].state == (("h", np.array([3, 4], "<f4").tobytes()),)


async def test_a_state_is_read_by_name(wire):
    state = [encode_state(LOWEST, math.inf), encode_state(FLAG, [True, False])]
    session = await wire.stubs.open("echo", state=state)
    reply = await wire.stubs.sessions.GetState(pb.GetStateRequest(session_id=session.id))
    assert reply.session.id == session.id
    found = {tensor.spec.name: decode_state(tensor).tolist() for tensor in reply.state}
    assert found == {"h": [0, 0], "half": 0, "flag": [True, False], "lowest": math.inf}
    error = await refused(wire.stubs.sessions.GetState(pb.GetStateRequest(session_id="none")))
    assert error.reason == "SESSION_NOT_FOUND"


async def test_a_state_that_no_client_could_receive_is_not_read(start_wire):
    wire = await start_wire(max_message_bytes=4096)
    model = wire.engine.model
    object.__setattr__(model, "state_bytes", 5000)
    session = await wire.stubs.open("echo")
    error = await refused(wire.stubs.sessions.GetState(pb.GetStateRequest(session_id=session.id)))
    object.__setattr__(model, "state_bytes", 0)
    assert (error.reason, error.metadata["bytes"]) == ("MESSAGE_TOO_LARGE", "5000")
    assert not [c for c in wire.engine.seen if isinstance(c, ports.ReadState)]


def of(spec, data):
    return pb.StateTensor(spec=spec, data=data)


def changed(spec, **fields):
    other = pb.TensorSpec()
    other.CopyFrom(spec)
    for name, value in fields.items():
        if name == "shape":
            del other.shape[:]
            other.shape.extend(value)
        else:
            setattr(other, name, value)
    return other


GOOD = encode_state(H, [1, 2])
BAD = {
    "unknown name": ([of(changed(H, name="g"), GOOD.data)], "no state 'g'"),
    "twice": ([GOOD, GOOD], "given twice"),
    "shape": ([of(changed(H, shape=[3]), bytes(12))], r"is float32[2], not float32[3]"),
    "rank": ([of(changed(H, shape=[1, 2]), bytes(8))], "not float32[1, 2]"),
    "dtype": ([of(changed(H, dtype=F64), bytes(16))], "not float64[2]"),
    "no dtype": ([of(changed(H, dtype=0), bytes(8))], "not of type 0[2]"),
    "size": ([of(H, bytes(7))], "has 7 bytes, not 8"),
    "nan": ([encode_state(H, [1, math.nan])], "state 'h' holds a NaN or an infinity"),
    "infinite half": ([encode_state(HALF, math.inf)], "state 'half' holds a NaN"),
    "neither": ([of(FLAG, b"\1\2")], "neither 0 nor 1"),
    "nothing": ([pb.StateTensor()], "no state ''"),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_state_that_does_not_fit_is_refused(wire, what):
    state, text = BAD[what]
    request = pb.OpenSessionRequest(model="echo", state=state)
    error = await refused(wire.stubs.sessions.OpenSession(request))
    assert (error.reason, error.metadata["model"]) == ("STATE_INVALID", "echo")
    assert text in error.message
    assert error.bad_request.field_violations[0].field == "state"
    stream = await wire.stubs.attach()
    await stream.say(bind=pb.Bind(handle=1, open=request))
    assert unpack((await stream.hear("failure")).failure.status).reason == "STATE_INVALID"
    assert not opened(wire)


async def test_a_name_that_the_model_lacks_is_refused(wire):
    stubs = wire.stubs
    calls = {
        "open": stubs.sessions.OpenSession(pb.OpenSessionRequest(model="echo", initial="eve")),
        "infer": stubs.inference.Infer(
            pb.InferRequest(model="echo", inputs=bytes(16), initial="eve")
        ),
        "generate": stubs.inference.Generate(
            pb.GenerateRequest(model="echo-tokens", text="a", max_tokens=1, initial="eve")
        ).read(),
    }
    for call in calls.values():
        error = await refused(call)
        assert error.reason == "INITIAL_UNKNOWN"
        assert error.metadata["known"] == "anna,otto"
        assert "it has anna, otto" in error.message
        assert error.bad_request.field_violations[0].field == "initial"


async def test_calls_without_a_session_choose_one_too(wire):
    row = np.zeros(4, "<f4").tobytes()
    infer = pb.InferRequest(model="echo", inputs=row, initial="otto")
    await wire.stubs.inference.Infer(infer)
    [call] = [c for c in wire.engine.seen if isinstance(c, ports.Infer)]
    assert call.initial == "otto"
    generate = pb.GenerateRequest(model="echo-tokens", text="a", max_tokens=1, initial="anna")
    assert await wire.stubs.inference.Generate(generate).read()
    [command] = [c for c in wire.tokens.seen if isinstance(c, ports.Open)]
    assert command.spec.initial == "anna"


async def test_a_session_that_is_open_has_begun(wire):
    session = await wire.stubs.open("echo-tokens")
    call = pb.GenerateRequest(session_id=session.id, text="a", max_tokens=1, initial="anna")
    error = await refused(wire.stubs.inference.Generate(call).read())
    assert error.reason == "FIELD_INVALID"
    assert error.bad_request.field_violations[0].field == "initial"


# -- a real server, which dies


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "voices"
    stack = nn.LSTM(3, 4, 2)
    named = {"anna": (torch.randn(2, 1, 4), torch.randn(2, 1, 4)), "otto": {"1.h": torch.ones(4)}}
    save(path, stack=stack, initial=torch.full((2, 1, 4), 0.5), initials=named)
    return path


def alone(path: Path, x: np.ndarray, initial: str = "", **given: np.ndarray) -> np.ndarray:
    """The rows of a plain loop."""
    model = load(path)
    names = [spec.name for spec in model.state_specs]
    state = list(model.initial_state(1, initial))
    for name, value in given.items():
        state[names.index(name)] = torch.from_numpy(value)[None]
    with torch.inference_mode():
        raw, _ = model.sequence(torch.from_numpy(x)[None], torch.tensor([len(x)]), tuple(state))
    return raw[0].numpy()


@pytest.mark.parametrize("front_ends", [0, 1])
def test_states_through_a_server_that_is_killed(
    voices: Path, tmp_path: Path, front_ends: int
) -> None:
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    given = {"0.c": np.array([1, -1, 2, -2], np.float32)}
    settings = {"store": f"sqlite:{tmp_path}/sessions.db", "front_ends": front_ends}
    with (
        ServerProcess(voices.parent, **settings) as server,
        carousel.Client(server.target) as client,
    ):
        info = client.model("voices")
        assert info.initials == ("anna", "otto")
        assert [s.name for s in info.states] == ["0.h", "0.c", "1.h", "1.c"]
        session = client.session(
            "voices", session_id="s", durability="sync", initial="otto", state=given
        )
        begun = session.state()
        np.testing.assert_array_equal(begun["0.c"], given["0.c"])
        np.testing.assert_array_equal(begun["1.h"], np.ones(4, np.float32))
        np.testing.assert_array_equal(begun["0.h"], np.full(4, 0.5, np.float32))
        first = session.steps(x[:4])
        after = session.state()
        server.process.kill()
        server.wait()
    with (
        ServerProcess(voices.parent, **settings) as server,
        carousel.Client(server.target) as client,
    ):
        assert client.session_info("s").initial == "otto"
        session = client.attach("s")
        again = session.state()
        for name, array in after.items():
            np.testing.assert_array_equal(again[name], array)
        both = np.concatenate([first, session.steps(x[4:])])
        np.testing.assert_allclose(both, alone(voices, x, "otto", **given), atol=1e-5)
        # What was read goes in again, whole.
        with client.session("voices", state=again) as other:
            rest = alone(voices, x[4:], **again)
            np.testing.assert_allclose(other.steps(x[4:]), rest, atol=1e-5)
        whole = client.infer("voices", x, initial="anna")
        np.testing.assert_allclose(whole, alone(voices, x, "anna"), atol=1e-5)


async def test_sequences_of_triton_begin_as_they_choose(voices: Path) -> None:
    x = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    with ServerProcess(voices.parent) as server:
        async with TritonStubs(server.target) as stubs:
            for name in ("anna", "", "", "otto", "anna", "anna"):
                expected = alone(voices, x, name)
                for n, row in enumerate(x):
                    chosen = {"initial": name} if name and n == 0 else {}
                    found = await stubs.infer("voices", row, 7, start=n == 0, **chosen)
                    np.testing.assert_allclose(found["y"][0], expected[n], atol=1e-5)


def test_a_parked_session_is_read(voices: Path, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/sessions.db"
    with (
        ServerProcess(voices.parent, store=store, slots=1) as server,
        carousel.Client(server.target) as client,
    ):
        first = client.session("voices", session_id="a", durability="sync", initial="anna")
        before = first.state()
        second = client.session("voices", session_id="b", durability="sync")
        assert client.session_info("a").phase == carousel.Phase.PARKED
        for name, array in first.state().items():
            np.testing.assert_array_equal(array, before[name])
        second.close()
        first.close()
