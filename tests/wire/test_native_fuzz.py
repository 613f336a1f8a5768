"""Broken conversations against the native transport, under the sanitizer of addresses.

`make fuzz` does it for long, and `make sanitize` runs the tests of the wire under sanitizers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
from fuzz.streams import EDITS, PREFACE, Frame, frames_of, mutated
from support.http2 import DATA, HEADERS, PING, frame
from support.sanitizers import command, sanitized

from carousel_server.wire.native.library import missing

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


def test_a_server_stands_broken_conversations(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    if shutil.which("setarch") is None:
        pytest.skip("setarch is not installed")
    seed = str(int.from_bytes(os.urandom(4), "big"))
    done = subprocess.run(
        command("-m", "tests.fuzz.transport", "--seconds", str(SECONDS), "--seed", seed),
        env={**sanitized("address", tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr[-8000:]}"
    assert "served throughout" in done.stdout
