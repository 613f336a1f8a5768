"""Each part of a Keras model that a package cannot have is refused by its name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from carousel_models import PackageError, import_file

from .keras_files import (
    Layer,
    dense,
    functional,
    new_file,
    new_weights,
    old_file,
    random,
    recurrent,
    sequential,
)


def refused(tmp_path: Path, message: str, *layers: Layer, version: str = "2.4.0") -> None:
    old_file(tmp_path / "m.h5", layers, sequential(layers), version)
    with pytest.raises(PackageError, match=message) as error:
        import_file(tmp_path / "m.h5", dir=tmp_path / "out")
    assert "; " in str(error.value), "an error has a cause and a fix"
    assert not (tmp_path / "out").exists()


def silent(kind: str, **config: Any) -> Layer:
    return kind, {"name": "it", **config}, []


def wrapped(kind: str, inner: Layer, arrays: Any = None, **config: Any) -> Layer:
    layer = {"class_name": inner[0], "config": inner[1]}
    return kind, {"name": "it", "layer": layer, **config}, inner[2] if arrays is None else arrays


RNN = recurrent("LSTM", "rnn", 3, 4)
TWICE = [*RNN[2], *RNN[2]]
KERNEL, INNER, BIAS = RNN[2]
GRU = recurrent("GRU")[2]


def made(kind: str, *arrays: Any, **config: Any) -> Layer:
    return kind, {"name": "it", "return_sequences": True, **config}, arrays


def both(inner: Layer, **config: Any) -> Layer:
    return wrapped("Bidirectional", inner, [*inner[2], *inner[2]], **config)


def of_cell(kind: str, inner: Any = (), **config: Any) -> Layer:
    cell = {
        "class_name": kind,
        "config": {"units": 4, "recurrent_activation": "sigmoid", **dict(inner)},
    }
    return made("RNN", KERNEL, INNER, BIAS, cell=cell, **config)


CASES: list[tuple[str, tuple[Layer, ...]]] = [
    (r"'rnn' \(LSTM\) has activation=relu", (recurrent("LSTM", activation="relu"),)),
    (r"'rnn' \(GRU\) has recurrent_act", (recurrent("GRU", recurrent_activation="relu"),)),
    (r"'rnn' \(SimpleRNN\) has the activation gelu", (recurrent("SimpleRNN", activation="gelu"),)),
    (r"has go_backwards=True, and a package has False", (recurrent("LSTM", go_backwards=True),)),
    (r"has return_state=True", (recurrent("GRU", return_state=True),)),
    (r"has time_major=True", (recurrent("GRU", time_major=True),)),
    (r"reset_after=True, and a bias \[12\]", (made("GRU", *GRU, reset_after=True),)),
    (r"'it' \(GRU\) has no bias", (made("GRU", *GRU[:2]),)),
    (r"have the shapes \[3, 16\], \[4, 12\], \[16\]", (made("LSTM", KERNEL, random(4, 12), BIAS),)),
    (r"have the shapes \[3, 16\], \[4, 16\], \[4\]", (made("LSTM", KERNEL, INNER, random(4)),)),
    (r"have the shapes \[3, 16\], \[4, 16\], \[2, 16\]", (made("LSTM", KERNEL, INNER, random(2, 16)),)),
    (r"has 1 arrays in the file instead of kernel", (made("LSTM", KERNEL),)),
    (r"'it' \(Bidirectional\) has merge_mode='sum'", (both(RNN, merge_mode="sum"),)),
    (r"has return_sequences=False: it joins", (both(recurrent("LSTM", return_sequences=False)),)),
    (r"'it' is a Dense, whose cell", (both(dense(return_sequences=True)),)),
    (r"wraps no layer", (made("Bidirectional", *TWICE),)),
    (r"applies a LSTM at each step", (wrapped("TimeDistributed", RNN),)),
    (r"applies a Conv2D at each step", (wrapped("TimeDistributed", silent("Conv2D")),)),
    (r"'it' is a Lambda, which the import of Keras does not read; see docs/", (RNN, silent("Lambda"))),
    (r"'it' is a Attention, which the import of Keras does not read", (RNN, silent("Attention"))),
    (r"the model has no recurrent layer", (dense(),)),
    (r"'d' has the activation exponential", (RNN, dense("d", activation="exponential"))),
    (r"'d' has the activation of a class", (RNN, dense("d", activation={"class_name": "Mine"}))),
    (r"hard_sigmoid of Keras 2.4.0", (RNN, dense("d", activation="hard_sigmoid"))),
    (r"quantization_config=", (RNN, dense("d", quantization_config={"mode": "int8"}))),
    (r"has window=3, an option that is not known", (RNN, dense("d", window=3))),
    (r"has skip_gate=True, an option that is not known", (recurrent("LSTM", skip_gate=True),)),
    (r"'it' \(RNN\) has the cell StackedRNNCells", (of_cell("StackedRNNCells"),)),
    (r"'it' \(RNN\) has attention=2, an option that is not known", (of_cell("LSTMCell", attention=2),)),
    (r"'it' \(LSTM\) has zone=2, an option that is not known", (of_cell("LSTMCell", {"zone": 2}),)),
    (r"is quantised \(int8\)", (RNN, dense("d", dtype={"config": {"name": "int8"}}))),
    (r"softmax is not the last operation", (RNN, dense(activation="softmax"), dense("o", 2, 2))),
    (r"ReLU with max_value 5.0", (RNN, silent("ReLU", max_value=5.0))),
    (r"threshold 1.0", (RNN, silent("ReLU", threshold=1.0))),
    (r"has slopes \[7, 4\]", (RNN, made("PReLU", random(7, 4)))),
    (r"'it' \(Softmax\) has axis=1", (RNN, silent("Softmax", axis=1))),
    (r"works along axis 1", (RNN, made("BatchNormalization", *[random(4)] * 4, axis=1))),
    (r"has arrays \[4\], \[3\], \[4\]",
     (RNN, made("BatchNormalization", random(4), random(3), random(4), scale=False))),
    (r"has rms_scaling=True",
     (RNN, made("LayerNormalization", random(4), random(4), rms_scaling=True))),
    (r"has invert=True", (made("Normalization", random(3), random(3), invert=True), RNN)),
    (r"has neither data nor constants", (silent("Normalization"), RNN)),
    (r"'it' masks steps .*; give --unpadded", (silent("Masking"), RNN)),
    (r"'it' masks steps", (made("Embedding", random(5, 3), mask_zero=True), RNN)),
    (r"\(Embedding\) is not the first", (RNN, made("Embedding", random(5, 3)))),
    (r"has no table", (made("Embedding", random(5)), RNN)),
    (r"has a kernel \[1, 4, 2\]", (RNN, ("Dense", {"name": "it"}, [random(1, 4, 2), random(2)]))),
]  # fmt: skip


@pytest.mark.parametrize(("message", "layers"), CASES, ids=[message for message, _ in CASES])
def test_a_layer(tmp_path: Path, message: str, layers: tuple[Layer, ...]) -> None:
    refused(tmp_path, message, *layers)


def test_directions_of_different_sizes(tmp_path: Path) -> None:
    other = recurrent("GRU", "b")
    config = {
        "name": "it",
        "layer": {"class_name": "LSTM", "config": RNN[1]},
        "backward_layer": {"class_name": "GRU", "config": other[1] | {"go_backwards": True}},
    }
    refused(tmp_path, "have different cells", ("Bidirectional", config, [*RNN[2], *other[2]]))


def test_keras_1(tmp_path: Path) -> None:
    refused(tmp_path, "Keras 1.2.2 wrote the file", RNN, version="1.2.2")


INPUT = ("InputLayer", {"name": "in"}, [])
ADD = ("Add", {"name": "sum"}, [])


def call(*names: str, node: int = 0, tensor: int = 0) -> list[Any]:
    return [[[name, node, tensor, {}] for name in names]]


@pytest.mark.parametrize(
    ("message", "inputs", "ends"),
    [
        ("used 2 times", {"rnn": [*call("in"), *call("in")]}, {}),
        ("another output of 'in'", {"rnn": call("in", tensor=1)}, {}),
        ("the model branches", {"d": call("in")}, {}),
        ("have no way from an input", {"rnn": call("d"), "d": call("rnn")}, {}),
        ("several inputs", {}, {"input_layers": [["in", 0, 0], ["x", 0, 0]]}),
        ("several outputs", {}, {"output_layers": {"a": ["d", 0, 0]}}),
        (r"'rnn' masks steps", {"rnn": [[["in", 0, 0, {"mask": ["in", 0, 0]}]]]}, {}),
        (r"'sum' \(Add\) does not add", {"sum": call("d", "d")}, {}),
        (r"'sum' \(Add\) does not add", {"sum": call("d", "rnn", "in")}, {}),
        ("layer 0 is residual but its widths differ: 3 in, 4 out", {"sum": call("rnn", "in")}, {}),
    ],
)
def test_a_graph(
    tmp_path: Path, message: str, inputs: dict[str, Any], ends: dict[str, Any]
) -> None:
    layers = [INPUT, RNN, dense("d", 4, 4), ADD]
    graph = {"in": [], "rnn": call("in"), "d": call("rnn"), "sum": call("d", "rnn")} | inputs
    old_file(tmp_path / "m.h5", layers, functional(layers, graph, **ends))
    with pytest.raises(PackageError, match=message):
        import_file(tmp_path / "m.h5", dir=tmp_path)


def test_a_residual_around_two_layers(tmp_path: Path) -> None:
    layers = [INPUT, recurrent("LSTM", "a", 4), recurrent("LSTM", "b", 4), ADD]
    graph = {"in": [], "a": call("in"), "b": call("a"), "sum": call("b", "in")}
    old_file(tmp_path / "m.h5", layers, functional(layers, graph))
    with pytest.raises(PackageError, match="a residual goes around 2 recurrent layers"):
        import_file(tmp_path / "m.h5", dir=tmp_path)


def test_a_model_whose_calls_are_code(tmp_path: Path) -> None:
    old_file(tmp_path / "m.h5", [RNN], {"class_name": "Mine", "config": {}})
    with pytest.raises(PackageError, match="the model is a Mine, and its calls are code"):
        import_file(tmp_path / "m.h5", dir=tmp_path)


def test_a_model_without_layers(tmp_path: Path) -> None:
    old_file(tmp_path / "m.h5", [RNN], sequential([]))
    with pytest.raises(PackageError, match="the model has no layers"):
        import_file(tmp_path / "m.h5", dir=tmp_path)


def test_weights_alone_need_a_configuration(tmp_path: Path) -> None:
    old_file(tmp_path / "m.h5", [RNN], None)
    with pytest.raises(PackageError, match="holds weights alone; give the model's JSON"):
        import_file(tmp_path / "m.h5", dir=tmp_path)
    with pytest.raises(FileNotFoundError):
        import_file(tmp_path / "m.h5", dir=tmp_path, config=tmp_path / "none.json")


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_a_configuration_that_is_no_model(tmp_path: Path, text: str) -> None:
    old_file(tmp_path / "m.h5", [RNN], None)
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(PackageError, match="JSON"):
        import_file(tmp_path / "m.h5", dir=tmp_path, config=tmp_path / "c.json")


def test_a_configuration_too_many(tmp_path: Path) -> None:
    old_file(tmp_path / "m.h5", [RNN], sequential([RNN]))
    with pytest.raises(PackageError, match="has its own configuration; leave out --config"):
        import_file(tmp_path / "m.h5", dir=tmp_path, config=tmp_path / "c.json")


def test_the_configuration_of_another_model(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(sequential([RNN, dense(), dense("e", 2)])))
    old_file(tmp_path / "m.h5", [("LSTM", {"name": "x"}, RNN[2])], None)
    with pytest.raises(PackageError, match=r"weights of 1 layers \(x\), and the model has 3"):
        import_file(tmp_path / "m.h5", dir=tmp_path, config=tmp_path / "c.json")


def test_weights_that_no_layer_uses(tmp_path: Path) -> None:
    write = new_weights({"lstm/cell": RNN[2], "dense": dense()[2]})
    new_file(tmp_path / "m.keras", sequential([RNN]), write)
    with pytest.raises(
        PackageError, match="weights of dense, and the model has the layers InputLayer, LSTM"
    ):
        import_file(tmp_path / "m.keras", dir=tmp_path)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_damaged_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(PackageError, match="is not a whole file of Keras"):
        import_file(tmp_path / name, dir=tmp_path)


def test_an_archive_without_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(PackageError, match="is not a whole file of Keras"):
        import_file(tmp_path / "m.keras", dir=tmp_path)


def test_hdf5_of_something_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(PackageError, match="is HDF5 without layers of Keras"):
        import_file(tmp_path / "m.h5", dir=tmp_path)


def test_links_out_of_the_file(tmp_path: Path) -> None:
    """A link could make the package hold another file of the machine that imports it."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = RNN[2][0]
    old_file(tmp_path / "m.h5", [RNN], sequential([RNN]))
    with h5py.File(tmp_path / "m.h5", "a") as file:
        del file["model_weights/rnn/rnn/lstm_0:0"]
        file["model_weights/rnn/rnn/lstm_0:0"] = h5py.ExternalLink("secret.h5", "x")
    with pytest.raises(PackageError, match="is missing or a link"):
        import_file(tmp_path / "m.h5", dir=tmp_path)


def test_arrays_outside_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(RNN[2][0].tobytes())
    old_file(tmp_path / "m.h5", [RNN], sequential([RNN]))
    with h5py.File(tmp_path / "m.h5", "a") as file:
        del file["model_weights/rnn/rnn/lstm_0:0"]
        raw = [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("model_weights/rnn/rnn/lstm_0:0", (3, 16), "f4", external=raw)
    with pytest.raises(PackageError, match="is no dataset of this file"):
        import_file(tmp_path / "m.h5", dir=tmp_path)


def test_arrays_that_are_no_numbers(tmp_path: Path) -> None:
    old_file(
        tmp_path / "m.h5", [("LSTM", RNN[1], [np.array([b"x"]), *RNN[2][1:]])], sequential([RNN])
    )
    with pytest.raises(PackageError, match=r"is \|S1\[1\]; save the model with weights of float32"):
        import_file(tmp_path / "m.h5", dir=tmp_path)
