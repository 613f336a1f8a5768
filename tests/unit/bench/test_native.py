"""The C++ echo (N2): what is said without a toolchain, and that it answers as Python's does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from bench import native, processes, served
from bench.echo import answers
from bench.models import STEPPED
from bench.native import compiling
from google.protobuf.message import Message

from carousel_protos.triton import inference_pb2 as triton
from carousel_protos.v1 import carousel_pb2 as pb

ATTACH = "/carousel.v1.InferenceService/Attach"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
GET_MODEL = "/carousel.v1.ModelService/GetModel"

# Compiling takes half a minute, which is too much for a test: `python -m bench blocks` does it once.
is_compiled = pytest.mark.skipif(
    bool(native.missing()) or not native.compiled().exists(),
    reason=f"no compiled C++ echo here: {native.missing() or 'python -m bench blocks compiles it'}",
)

WORKING = {"protoc": "", "pkg-config": "echo -lgrpc++"}


def tools(folder: Path, scripts: Mapping[str, str]) -> str:
    """A PATH with these programs alone."""
    for name, script in scripts.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    return str(folder)


# -- without a toolchain


def test_everything_that_is_missing_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.missing() == (
        "g++, protoc, pkg-config, grpc++, protobuf not found: "
        "apt-get install g++ protobuf-compiler pkg-config libgrpc++-dev libprotobuf-dev"
    )


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    path = tools(tmp_path, {"g++": "", "protoc": "", "pkg-config": 'test "$2" = protobuf'})
    monkeypatch.setenv("PATH", path)
    assert native.missing() == "grpc++ not found: apt-get install libgrpc++-dev"


def test_a_figure_says_what_is_missing_and_goes_on(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with processes.native_echo("blocks", {}) as address:
        assert address is None
    said = capsys.readouterr().out
    assert said.startswith("bench blocks: SKIPPED: N2: g++, protoc")
    assert said.endswith("libprotobuf-dev\n")


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    tmp_path: Path, monkeypatch: Any
) -> None:
    path = tools(tmp_path, {**WORKING, "g++": "echo no room >&2; exit 1"})
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(compiling, "_CACHE", tmp_path / "cache")
    with pytest.raises(native.NativeEchoError, match="g\\+\\+ fails: no room"):
        native.program()
    assert not list((tmp_path / "cache").iterdir())


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: Any) -> None:
    # It "compiles" by writing to what follows -o.
    compiler = f'echo once >> {tmp_path}/runs; while [ "$1" != -o ]; do shift; done; echo > "$2"'
    path = tools(tmp_path, {**WORKING, "g++": compiler})
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(compiling, "_CACHE", tmp_path / "cache")
    assert native.program() == native.program() == native.compiled()
    assert list((tmp_path / "cache").iterdir()) == [native.compiled()]
    assert (tmp_path / "runs").read_text() == "once\n"


# -- with one


def ask(address: str, method: str, requests: list[Message], kind: Any) -> list[Any]:
    """What a stream answers to these messages, in turn."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(
            method, lambda message: message.SerializeToString(), kind.FromString
        )
        return list(call(iter(requests), timeout=30))


@pytest.fixture(scope="module")
def echoes() -> Iterator[tuple[str, str, str]]:
    """Addresses: ours in Python, Triton's in Python, both in C++."""
    with ExitStack() as stack:
        ours = stack.enter_context(processes.echo_server())
        tritons = stack.enter_context(processes.triton_echo(ours))
        both = stack.enter_context(processes.native_echo("blocks", answers()))
        assert both is not None
        yield ours, tritons, both


@is_compiled
def test_blocks_are_answered_as_in_python(echoes: tuple[str, str, str]) -> None:
    block = pb.Block(
        handles=[1, 2],
        first_seqs=[7, 1 << 40],
        steps=2,
        inputs=bytes(range(256)) * 100,
        acks=[6, 5],
    )
    requests: list[Message] = [
        pb.AttachRequest(hello=pb.Hello(client="test")),
        pb.AttachRequest(bind=pb.Bind(handle=3, open=pb.OpenSessionRequest(model=STEPPED))),
        pb.AttachRequest(acks=pb.Acks(handles=[1], acks=[1])),
        pb.AttachRequest(block=block),
        pb.AttachRequest(unbind=pb.Unbind(handle=3, close=True)),
    ]
    told = ask(echoes[0], ATTACH, requests, pb.AttachResponse)
    assert [reply.WhichOneof("event") for reply in told] == [
        "welcome", "bound", "outputs", "unbound"
    ]  # fmt: skip
    assert ask(echoes[2], ATTACH, requests, pb.AttachResponse) == told


@is_compiled
def test_steps_of_tritons_protocol_are_answered_as_in_python(echoes: tuple[str, str, str]) -> None:
    requests: list[Message] = []
    for number in range(3):
        request = triton.ModelInferRequest(model_name="m", id=f"step {number}")
        request.parameters["sequence_id"].int64_param = number
        request.inputs.add(name="x", datatype="FP32", shape=[1, 64])
        request.raw_input_contents.append(bytes([number]) * 256)
        requests.append(request)
    told = ask(echoes[1], STREAM, requests, triton.ModelStreamInferResponse)
    assert len(told) == 3
    assert ask(echoes[2], STREAM, requests, triton.ModelStreamInferResponse) == told


@is_compiled
def test_what_is_asked_before_the_first_step_is_answered_from_files(
    echoes: tuple[str, str, str],
) -> None:
    with grpc.insecure_channel(echoes[2]) as channel:
        call: Any = channel.unary_unary(GET_MODEL)
        assert call(b"", timeout=30) == answers()[GET_MODEL[1:]]
        unknown: Any = channel.unary_unary("/carousel.v1.ModelService/ListModels")
        with pytest.raises(grpc.RpcError) as refused:
            unknown(b"", timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@is_compiled
def test_the_sdk_runs_blocks_on_it(echoes: tuple[str, str, str]) -> None:
    measured = asyncio.run(served.blocks(echoes[2], 2, 0.1, sessions=3))
    assert measured["steps_per_s"] > 0
