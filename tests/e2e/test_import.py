"""`carousel models import` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.server import ServerProcess
from unit.importing.keras_files import dense, old_file, recurrent, sequential
from unit.importing.onnx_files import node, rows, squeezed, weights, write

from carousel import Client
from carousel.exceptions import ModelNotCausalError

from .command import Done, carousel

MAP = """
[[layer]]
cell = "rnn_tanh"
weight_ih = "w"
weight_hh = "u"
"""


def imported(file: Path, *options: object) -> Done:
    return carousel("models", "import", str(file), *map(str, options))


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    np.savez(tmp_path / "m.npz", w=np.eye(3), u=np.eye(3))
    (tmp_path / "map.toml").write_text(MAP)
    return tmp_path / "m.npz"


def test_a_file_becomes_a_package(tmp_path: Path) -> None:
    layers = [recurrent("LSTM", return_sequences=False, recurrent_activation="sigmoid"), dense()]
    file = old_file(tmp_path / "gestures.h5", layers, sequential(layers))
    done = imported(file, "--dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "imported from gestures.h5" in done.stdout
    assert "rnn returned its last step alone" in done.stderr
    checked = carousel("models", "check", str(tmp_path / "out"))
    assert checked.returncode == 0, checked.stderr


def test_json_has_the_notes(arrays: Path, tmp_path: Path) -> None:
    done = imported(
        arrays, "--map", tmp_path / "map.toml", "--as", "eye", "--check",
        "--dir", tmp_path, "-o", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["name"], record["cell"], record["hidden"]) == ("eye", "rnn_tanh", 3)
    assert record["notes"][0].startswith("not compared with the original: ")


@pytest.mark.parametrize(
    ("options", "cause", "fix", "code"),
    [
        ([], "m.npz has arrays without a model", "--map FILE.toml", 1),
        (["--config", "x"], ".npz files have no option --config", "it is one of .h5", 1),
        (["--unpadded"], ".npz files have no option --unpadded", "leave it out", 1),
        (["--map", "none.toml"], "none.toml: No such file", "", 2),
        (["--map", "map.toml", "--as", "a b"], "name: string should match pattern", "", 2),
    ],
)
def test_refusals(
    arrays: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    cause: str,
    fix: str,
    code: int,
) -> None:
    monkeypatch.chdir(arrays.parent)
    done = imported(arrays, *options)
    assert done.returncode == code, done.stderr
    assert cause in done.stderr
    assert fix in done.stderr


def test_a_file_of_no_kind(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"")
    done = imported(tmp_path / "m.pkl")
    assert done.returncode == 1
    assert "m.pkl is of no kind that can be imported" in done.stderr
    assert ".keras" in done.stderr


def test_layers_of_onnx_files_are_compared_and_served(tmp_path: Path) -> None:
    """A layer that runs backwards has no sessions, and Infer runs it."""
    squeeze, axis = squeezed()
    layer = node("GRU", direction="reverse")
    file = write(tmp_path / "back.onnx", [layer, squeeze], weights("GRU") | axis)
    done = imported(file, "--dir", tmp_path / "out", "--check")
    assert done.returncode == 0, done.stderr
    assert "the package gives the original's rows" in done.stderr
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    with ServerProcess(tmp_path / "out") as server, Client(server.target) as client:
        found = client.infer("back", x)
        with pytest.raises(ModelNotCausalError):
            client.session("back").step(x[0])
    np.testing.assert_allclose(found, rows("GRU", x, weights("GRU"), "reverse"), atol=2e-6)
