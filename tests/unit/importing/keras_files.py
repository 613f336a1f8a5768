"""Files as Keras writes them, made by hand with h5py, and the equations of its layers in float64."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Layer = tuple[str, dict[str, Any], Sequence[Array]]
"""Class, configuration (with a name), arrays."""

RECURRENT = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
"""Recurrent layers and the number of their gates."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def random(*shape: int, seed: int = 0) -> Array:
    return rng(seed).normal(0, 0.5, shape).astype(np.float32)


def recurrent(kind: str, name: str = "rnn", width: int = 3, units: int = 4, **config: Any) -> Layer:
    """A recurrent layer with random arrays. A GRU with `reset_after` has a bias of two rows."""
    rows = RECURRENT[kind] * units
    bias = random(*((2, rows) if config.get("reset_after") else (rows,)), seed=3)
    arrays = [random(width, rows, seed=1), random(units, rows, seed=2), bias]
    named = {"name": name, "units": units, "return_sequences": True}
    gates = {} if kind == "SimpleRNN" else {"recurrent_activation": "sigmoid"}
    return kind, {**named, **gates, **config}, arrays


def dense(name: str = "dense", width: int = 4, units: int = 2, **config: Any) -> Layer:
    arrays = [random(width, units, seed=4), random(units, seed=5)]
    return "Dense", {"name": name, "units": units, "activation": "linear", **config}, arrays


def sequential(layers: Sequence[Layer]) -> dict[str, Any]:
    """JSON of a Sequential model as Keras 2.2 wrote it."""
    listed = [{"class_name": kind, "config": config} for kind, config, _ in layers]
    return {"class_name": "Sequential", "config": {"name": "s", "layers": listed}}


def functional(layers: Sequence[Layer], inputs: Mapping[str, Any], **ends: Any) -> dict[str, Any]:
    """JSON of a functional model as Keras 2 wrote it. `inputs` has the inbound nodes of each layer."""
    listed = [
        {"class_name": kind, "name": c["name"], "config": c, "inbound_nodes": inputs[c["name"]]}
        for kind, c, _ in layers
    ]
    first, last = layers[0][1]["name"], layers[-1][1]["name"]
    ends = {"input_layers": [[first, 0, 0]], "output_layers": [[last, 0, 0]], **ends}
    return {"class_name": "Model", "config": {"name": "m", "layers": listed, **ends}}


def old_file(
    path: Path,
    layers: Sequence[Layer],
    model: dict[str, Any] | None,
    version: str | None = "2.2.4",
    parts: int = 1,
) -> Path:
    """A `.h5` of Keras 2: a whole model, or weights alone. Lists of names may be in several attributes."""
    with h5py.File(path, "w") as file:
        group = file if model is None else file.create_group("model_weights")
        if model is not None:
            file.attrs["model_config"] = json.dumps(model).encode()
        if version is not None:
            group.attrs["keras_version"] = version.encode()
        _list(group, "layer_names", [config["name"] for _, config, _ in layers], parts)
        for kind, config, arrays in layers:
            own = group.create_group(config["name"])
            names = [f"{config['name']}/{kind.lower()}_{n}:0" for n in range(len(arrays))]
            _list(own, "weight_names", names, 1)
            for name, array in zip(names, arrays, strict=True):
                own[name] = array
    return path


def _list(group: h5py.Group, name: str, values: Sequence[str], parts: int) -> None:
    encoded = np.array([value.encode() for value in values], dtype="S64")
    if parts == 1:
        group.attrs[name] = encoded
        return
    for number, chunk in enumerate(np.array_split(encoded, parts)):
        group.attrs[f"{name}{number}"] = chunk


def new_weights(
    layers: Mapping[str, Sequence[Array]], container: str = "layers"
) -> Callable[[h5py.File], None]:
    """Writes arrays as Keras 3 does, from paths such as "lstm/cell" below the container."""

    def write(file: h5py.File) -> None:
        for path, arrays in layers.items():
            group = file.create_group(f"{container}/{path}/vars")
            for number, array in enumerate(arrays):
                group[str(number)] = array

    return write


def new_file(path: Path, model: dict[str, Any], write: Callable[[h5py.File], None]) -> Path:
    """A `.keras` file."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        write(file)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.writestr("config.json", json.dumps(model))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def keras_lstm(x: Array, kernel: Array, inner: Array, bias: Array) -> Array:
    """The equations of keras.layers.LSTM in float64: x[T, in] → [T, units]."""
    units = len(inner)
    h = c = np.zeros(units)
    rows = []
    for row in x.astype(np.float64):
        i, f, g, o = np.split(row @ kernel + h @ inner + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        rows.append(h)
    return np.array(rows)


def keras_gru(x: Array, kernel: Array, inner: Array, bias: Array) -> Array:
    """The equations of keras.layers.GRU in float64, of both forms."""
    units = len(inner)
    h = np.zeros(units)
    rows = []
    after = bias.ndim == 2
    first, second = bias if after else (bias, np.zeros_like(bias))
    for row in x.astype(np.float64):
        z, r, n = np.split(row @ kernel + first, 3)
        inner_z, inner_r, inner_n = np.split(h @ inner + second, 3)
        z, r = sigmoid(z + inner_z), sigmoid(r + inner_r)
        candidate = np.tanh(n + (r * inner_n if after else (r * h) @ inner[:, 2 * units :]))
        h = z * h + (1 - z) * candidate
        rows.append(h)
    return np.array(rows)
