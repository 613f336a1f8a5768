"""States on the command line: chosen, given as a file, and looked at."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from e2e.command import carousel
from support.server import ServerProcess
from torch import nn

import carousel as sdk
from carousel_models import save

X = np.array([[1, 2], [0.5, -1]], np.float32)
ROWS = "\n".join(",".join(map(str, row)) for row in X) + "\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    voices = {"anna": (torch.ones(1, 1, 3), -torch.ones(1, 1, 3))}
    save(folder / "voices", stack=nn.LSTM(2, 3), initials=voices)
    text = {"embedding": nn.Embedding(256, 4), "head": nn.Linear(3, 256), "tokenizer": "bytes"}
    save(folder / "text", stack=nn.GRU(4, 3), initials={"loud": 9 * torch.ones(3)}, **text)
    return folder


@pytest.fixture(scope="module")
def server(models):
    with ServerProcess(models) as process:
        yield process


@pytest.fixture
def run(server):
    return lambda *a, **o: carousel(*a, "--server", server.target, **o)


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text):
    return np.array([line.split(",")[1:] for line in text.splitlines()[1:]], np.float32)


def test_a_model_shows_its_states(run, models):
    served = json.loads(succeeded(run("models", "show", "voices", "-o", "json")))
    packaged = json.loads(
        succeeded(carousel("models", "show", "voices", "--dir", str(models), "-o", "json"))
    )
    for record in (served, packaged):
        assert record["states"] == "0.h:float32[3], 0.c:float32[3]"
        assert record["initials"] == ["anna"]


def test_stream_and_infer_choose_an_initial_state(run, server):
    with sdk.Client(server.target) as client:
        chosen, plain = (client.infer("voices", X, initial=name) for name in ("anna", ""))
    assert np.abs(chosen - plain).max() > 0.1
    for name, expected in (("anna", chosen), ("", plain)):
        arguments = ("--initial", name) if name else ()
        for command in ("stream", "infer"):
            found = rows(succeeded(run(command, "voices", "-", *arguments, stdin=ROWS)))
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_generate_chooses_one(run):
    arguments = ("generate", "text", "a", "--temperature", "0", "--max-tokens", "8", "-o", "json")
    loud = json.loads(succeeded(run(*arguments, "--initial", "loud")))
    plain = json.loads(succeeded(run(*arguments)))
    assert loud["generated_tokens"] == plain["generated_tokens"] == 8


def test_an_unknown_name_lists_those_that_there_are(run):
    for command in (("stream", "voices"), ("infer", "voices", "-"), ("generate", "text", "a")):
        done = run(*command, "--initial", "eve", stdin=ROWS)
        assert done.returncode == 4
        assert "INITIAL_UNKNOWN" in done.stderr
        assert "fix: choose one of these with --initial, or leave it out" in done.stderr
        known = "loud" if "text" in command else "anna"
        assert f"it has {known}" in done.stderr


def test_a_session_that_is_open_has_begun(run):
    for command in (("stream", "voices"), ("generate", "text", "a")):
        done = run(*command, "--session", "s", "--initial", "anna", stdin=ROWS)
        assert (done.returncode, "so it has begun" in done.stderr) == (2, True)


def test_a_state_is_shown_written_and_given_again(run, tmp_path):
    succeeded(run("sessions", "open", "voices", "--id", "one", "--initial", "anna"))
    table = succeeded(run("sessions", "state", "one"))
    assert "0.h" in table
    assert "float32" in table
    records = json.loads(succeeded(run("sessions", "state", "one", "-o", "json")))
    assert [r["name"] for r in records] == ["0.h", "0.c"]
    assert records[0] | {"least": 1, "most": 1} == records[0]
    assert (records[1]["shape"], records[1]["bytes"]) == ([3], 12)
    succeeded(run("stream", "voices", "--session", "one", stdin=ROWS))
    file = tmp_path / "state.bin"
    done = json.loads(succeeded(run("sessions", "state", "one", str(file), "-o", "json")))
    assert (done["states"], done["file"]) == (2, str(file))
    with np.load(file) as arrays:
        assert sorted(arrays.files) == ["0.c", "0.h"]
    succeeded(run("sessions", "open", "voices", "--id", "two", "--state", str(file)))
    outputs = [
        succeeded(run("stream", "voices", "--session", each, stdin=ROWS)) for each in ("one", "two")
    ]
    assert outputs[0] == outputs[1]
    succeeded(run("sessions", "close", "one", "two"))


@pytest.mark.parametrize("content", [b"", b"no file of NumPy", b"\x93NUMPY"])
def test_a_file_that_has_no_states(run, tmp_path, content):
    file = tmp_path / "bad.npz"
    file.write_bytes(content)
    done = run("sessions", "open", "voices", "--state", str(file))
    assert (done.returncode, "is not an .npz file" in done.stderr) == (2, True)


def test_a_file_with_one_array_and_one_with_objects(run, tmp_path):
    one, objects = tmp_path / "one.npy", tmp_path / "objects.npz"
    np.save(one, np.zeros(3))
    np.savez(objects, **{"0.h": np.array([object()])})
    for file in (one, objects):
        done = run("sessions", "open", "voices", "--state", str(file))
        assert (done.returncode, "is not an .npz file" in done.stderr) == (2, True)
