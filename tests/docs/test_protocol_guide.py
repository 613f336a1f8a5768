"""The protocol guide is true: its calls work, its reasons exist, and its program runs through a cut."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from chaos.proxy import Proxy
from google.protobuf import json_format
from google.protobuf.message import Message
from support.server import ServerProcess

import carousel
from carousel_protos.errors import ERRORS
from carousel_protos.v1 import carousel_pb2 as pb

from .pages import ROOT, blocks, files

GUIDE = ROOT / "docs/guides/protocol.md"
MODEL = "sunspots-gru"
INPUTS = np.array([[0.1], [0.2], [0.3], [0.4]], np.float32)
GIVE_UP_S = 110

GO_PACKAGES = Path("/usr/share/gocode")
"""Where Debian puts the sources of Go's libraries. They are used without a network."""

# Debian's gRPC for Go is older than its protobuf, and needs to be told to use that.
CODEC = """package main

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
)

type codec struct{}

func (codec) Marshal(v interface{}) ([]byte, error)      { return proto.Marshal(v.(proto.Message)) }
func (codec) Unmarshal(data []byte, v interface{}) error { return proto.Unmarshal(data, v.(proto.Message)) }
func (codec) Name() string                               { return "proto" }

func init() { encoding.RegisterCodec(codec{}) }
"""


@pytest.fixture(scope="module")
def zoo() -> Iterator[ServerProcess]:
    with ServerProcess(ROOT / "models/zoo", store="memory") as server:
        yield server


@pytest.fixture(scope="module")
def expected(zoo: ServerProcess) -> list[float]:
    with carousel.Client(zoo.target) as client, client.session(MODEL) as session:
        return [float(row[0]) for row in session.steps(INPUTS)]


def calls() -> list[tuple[str, str]]:
    """Method and JSON of each call that the guide makes by grpcurl."""
    lines = "".join(blocks(GUIDE, "bash")).splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("grpcurl")]
    return [(line[-1], line[line.index("-d") + 1]) for line in words if "-d" in line]


def call(channel: grpc.Channel, method: str, request: str) -> Message:
    """One unary call, with a request in JSON."""
    service, _, name = method.rpartition("/")
    found = pb.DESCRIPTOR.services_by_name[service.removeprefix("carousel.v1.")]
    kinds = found.methods_by_name[name]
    stub = channel.unary_unary(
        f"/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=getattr(pb, kinds.output_type.name).FromString,
    )
    asked = json_format.ParseDict(json.loads(request), getattr(pb, kinds.input_type.name)())
    answer: Message = stub(asked, timeout=GIVE_UP_S)
    return answer


def test_the_calls_by_hand_work(zoo: ServerProcess, expected: list[float]) -> None:
    with grpc.insecure_channel(zoo.target) as channel:
        answers = [(method, call(channel, method, request)) for method, request in calls()]
    steps = [answer for method, answer in answers if method.endswith("/Step")]
    assert [np.frombuffer(one.outputs, np.float32)[0] for one in steps] == expected[:2]  # type: ignore[attr-defined]
    assert [method.rpartition("/")[2] for method, _ in answers] == [
        *("GetModel", "OpenSession", "Step", "Step", "GetSession", "CloseSession")
    ]


def test_the_rules_are_those_of_reliability() -> None:
    ours = set(re.findall(r"^\| (R\d+) \|", GUIDE.read_text(), re.MULTILINE))
    theirs = set(
        re.findall(r"^\| (R\d+) \|", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE)
    )
    assert {"R1", "R8", "R13"} <= ours <= theirs


def test_reasons_and_messages_exist() -> None:
    text = GUIDE.read_text()
    reasons = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", text)) - {"DURABILITY_ASYNC"}
    grpc_codes = {code.name for code in grpc.StatusCode}
    assert reasons - set(ERRORS) - grpc_codes == set()
    shown = set(re.findall(r"^  (?:◄─   )?([A-Z]\w+)(?: \{|, Bind)", text, re.MULTILINE))
    assert {"Hello", "Bind", "Block", "Acks", "Unbind"} <= shown
    assert all(hasattr(pb, name) for name in shown)


def protoc(*arguments: str | Path) -> None:
    program = shutil.which("protoc")
    if program is None:
        pytest.skip("protoc is missing: apt-get install protobuf-compiler libprotobuf-dev")
    roots = ("-I", ROOT / "protos", "-I", ROOT / "protos/third_party")
    ours = ("carousel_protos/v1/carousel.proto", "google/rpc/status.proto")
    subprocess.run([program, *roots, *arguments, *ours], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("language", "file"),
    [
        ("java", "carousel/v1/CarouselProto.java"),
        ("csharp", "Carousel.cs"),
        ("php", "Carousel/V1/Bind.php"),
        ("ruby", "carousel_protos/v1/carousel_pb.rb"),
    ],
)
def test_the_files_compile_for_other_languages(tmp_path: Path, language: str, file: str) -> None:
    protoc(f"--{language}_out={tmp_path}")
    assert (tmp_path / file).is_file()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's program in Go, compiled."""
    for name in ("go", "protoc-gen-go", "protoc-gen-go-grpc"):
        if shutil.which(name) is None:
            pytest.skip(
                f"{name} is missing: apt-get install golang-go protoc-gen-go protoc-gen-go-grpc"
            )
    if not (GO_PACKAGES / "src/google.golang.org/grpc").is_dir():
        pytest.skip("Go's gRPC is missing: apt-get install golang-google-grpc-dev")
    place = tmp_path_factory.mktemp("go")
    source = place / "src/hello"
    source.mkdir(parents=True)
    (source / "main.go").write_text(files(GUIDE)["main.go"])
    (source / "codec.go").write_text(CODEC)
    packages = {
        "carousel_protos/v1/carousel.proto": "carouselv1",
        "google/rpc/status.proto": "rpcstatus",
    }
    names = ",".join(f"M{file}=hello/{package}" for file, package in packages.items())
    out = place / "src"
    protoc(f"--go_out={out}", f"--go_opt={names}", f"--go-grpc_out={out}", f"--go-grpc_opt={names}")
    variables = {
        **os.environ, "GO111MODULE": "off", "GOFLAGS": "-p=1", "GOPATH": f"{place}:{GO_PACKAGES}",
        "GOCACHE": str(place / "cache"),
    }  # fmt: skip
    done = subprocess.run(
        ["go", "build", "-o", place / "hello", "."],
        cwd=source, env=variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place / "hello"


def numbers(text: str) -> list[float]:
    """The outputs that the program prints, one line a step."""
    return [float(line.split()[1]) for line in text.splitlines()]


def test_the_program_in_go(program: Path, zoo: ServerProcess, expected: list[float]) -> None:
    command = [program, zoo.target, MODEL, "by-go"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GIVE_UP_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert numbers(done.stdout) == pytest.approx(expected, rel=1e-6)


def test_the_program_in_go_continues_after_a_cut(
    program: Path, zoo: ServerProcess, expected: list[float]
) -> None:
    with Proxy(zoo.port) as proxy:
        proxy.hold(proxy.down, np.float32(expected[0]).tobytes())
        process = subprocess.Popen(
            [program, proxy.target, MODEL, "by-go-again"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert proxy.down.holds.wait(GIVE_UP_S), "the first output never came"
        proxy.reset()
        proxy.release(proxy.down)
        out, error = process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 0, error
    assert "again:" in error
    assert numbers(out) == pytest.approx(expected, rel=1e-6)
