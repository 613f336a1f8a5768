"""Broken conversations and requests against the native transport, under the sanitizer of addresses.

`make fuzz` does it for long, and `make sanitize` runs the tests of the wire under sanitizers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
from fuzz.readers import block, check_block, check_infer, formed
from fuzz.readers import mutated as mutated_request
from fuzz.streams import EDITS, PREFACE, Frame, frames_of, mutated
from support.http2 import DATA, HEADERS, PING, frame
from support.sanitizers import command, sanitized

from carousel_protos.triton import inference_pb2 as triton
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire.native.library import missing
from carousel_server.wire.native.readers import NO_ACK, UNKNOWN, BlockRow, InferRow

ROOT = Path(__file__).parents[2]
SECONDS = 4

RECORDED = (
    PREFACE + frame(HEADERS, 4, 1, b"abc") + frame(DATA, 1, 1, b"x" * 300) + frame(PING, 0, 0)
)


def test_a_conversation_is_cut_into_its_frames():
    frames = frames_of(RECORDED + b"\0\0")
    assert [one.kind for one in frames] == [HEADERS, DATA, PING]
    assert PREFACE + b"".join(one.encoded() for one in frames) == RECORDED


def test_a_seed_says_what_is_sent():
    conversations = [frames_of(RECORDED)]
    sent = [mutated(Random(seed), conversations) for seed in range(200)]
    assert sent == [mutated(Random(seed), conversations) for seed in range(200)]
    assert len({b"".join(pieces) for pieces in sent}) > 100
    assert any(b"".join(pieces) == RECORDED for pieces in sent), "some change nothing"


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_leaves_frames(edit):
    for seed in range(50):
        frames = frames_of(RECORDED)
        edit(Random(seed), frames, [frames_of(RECORDED)])
        assert all(isinstance(one, Frame) and one.encoded() for one in frames)


@pytest.fixture(scope="module")
def under_sanitizer(tmp_path_factory):
    """Runs a program of the fuzz, with a random seed, on a transport with the sanitizer of addresses."""
    if reason := missing():
        pytest.skip(reason)
    if shutil.which("setarch") is None:
        pytest.skip("setarch is not installed")
    variables = sanitized("address", tmp_path_factory.mktemp("sanitized"))

    def run(program):
        seed = str(int.from_bytes(os.urandom(4), "big"))
        done = subprocess.run(
            command("-m", program, "--seconds", str(SECONDS), "--seed", seed),
            env={**variables, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr[-8000:]}"
        return done.stdout

    return run


def test_a_server_stands_broken_conversations(under_sanitizer):
    assert "served throughout" in under_sanitizer("tests.fuzz.transport")


def test_readers_read_broken_requests_as_protobuf_does(under_sanitizer):
    assert "as protobuf does" in under_sanitizer("tests.fuzz.readers")


def test_a_seed_says_what_is_read():
    made = [mutated_request(Random(seed), block) for seed in range(300)]
    assert made == [mutated_request(Random(seed), block) for seed in range(300)]
    assert len(set(made)) > 200


WHOLE = pb.AttachRequest(
    block=pb.Block(handles=[7], first_seqs=[3], steps=2, inputs=b"abcd", acks=[1])
).SerializeToString()
AT = WHOLE.index(b"abcd")


def test_a_plain_block_is_compared_with_protobuf():
    assert check_block(WHOLE, WHOLE, BlockRow(7, 3, 2, 1, 0, AT, AT + 4))
    assert not check_block(WHOLE, WHOLE, BlockRow(0, 0, 0, NO_ACK, 0, 0, 0)), "it is not plain"


@pytest.mark.parametrize(
    "wrong",
    [
        BlockRow(8, 3, 2, 1, 0, AT, AT + 4),
        BlockRow(7, 4, 2, 1, 0, AT, AT + 4),
        BlockRow(7, 3, 1, 1, 0, AT, AT + 4),
        BlockRow(7, 3, 2, NO_ACK, 0, AT, AT + 4),
        BlockRow(7, 3, 2, 1, 1, AT, AT + 4),
        BlockRow(7, 3, 2, 1, 0, AT - 1, AT + 4),
    ],
)
def test_a_block_that_is_read_wrongly_is_found(wrong):
    with pytest.raises(AssertionError, match="was read as"):
        check_block(WHOLE, WHOLE, wrong)


def test_a_request_that_is_read_wrongly_is_found():
    request = triton.ModelInferRequest(id="7", raw_input_contents=[b"abcd"])
    request.parameters["sequence_id"].int64_param = 5
    whole = request.SerializeToString()
    id_at, row_at = whole.index(b"7"), whole.index(b"abcd")
    right = InferRow(0, 5, 0, id_at, id_at + 1, row_at, row_at + 4)
    forms = [formed(request)]
    assert check_infer(whole, whole, right, forms)
    assert not check_infer(whole, whole, right._replace(form=UNKNOWN), forms), "it is not plain"
    for wrong in (
        right._replace(sequence=6),
        right._replace(flags=1),
        right._replace(id_end=id_at),
        right._replace(row_end=row_at + 3),
    ):
        with pytest.raises(AssertionError):
            check_infer(whole, whole, wrong, forms)
    with pytest.raises(AssertionError):
        check_infer(whole, whole, right, [triton.ModelInferRequest(model_name="other")])
