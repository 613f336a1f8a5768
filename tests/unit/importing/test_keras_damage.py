"""Whatever stands in the JSON of a model, an import gives a package or a PackageError."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import h5py
import pytest

from carousel_models import PackageError
from carousel_models.importing.keras import read

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

VALUES: list[Any] = [None, 7, -1.5, "x", [], {}, True, [[]], {"config": 3}]

LAYERS: list[Layer] = [
    ("InputLayer", {"name": "in", "batch_shape": [None, None, 4]}, []),
    ("Normalization", {"name": "n", "axis": [-1], "invert": False}, [random(4), random(4) ** 2 + 1]),
    recurrent("GRU", "g", 4, reset_after=True, dtype={"config": {"name": "float32"}}),
    ("Add", {"name": "sum"}, []),
    ("LayerNormalization", {"name": "ln", "axis": -1, "epsilon": 1e-3}, [random(4), random(4)]),
    ("Bidirectional", {"name": "b", "merge_mode": "concat",
                       "layer": {"class_name": "LSTM", "config": recurrent("LSTM")[1]}},
     [*recurrent("LSTM", width=4)[2], *recurrent("LSTM", width=4)[2]]),
    ("TimeDistributed", {"name": "t", "layer": {"class_name": "Dense", "config": dense()[1]}},
     [random(8, 4), random(4)]),
    ("ReLU", {"name": "r", "max_value": None, "negative_slope": 0.1, "threshold": 0.0}, []),
    ("LeakyReLU", {"name": "lr", "negative_slope": 0.2}, []),
    ("ELU", {"name": "e", "alpha": 1.0}, []),
    dense("d", 4, 2, activation={"class_name": "function", "config": "softmax"}),
]  # fmt: skip


def graph() -> dict[str, Any]:
    names = [config["name"] for _, config, _ in LAYERS]
    calls = {name: [[[before, 0, 0, {}]]] for before, name in pairwise(names)}
    calls["sum"] = [
        {"args": [[{"config": {"keras_history": ["g", 0, 0]}}, ["n", 0, 0]]], "kwargs": {}}
    ]
    return functional(LAYERS, {"in": [], **calls})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a JSON document."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def damaged(model: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any, dict[str, Any]]]:
    for path in places(model):
        for value in VALUES:
            changed = copy.deepcopy(model)
            inner: Any = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            yield path, value, changed


@pytest.mark.parametrize(
    ("layers", "model", "every"),
    [(LAYERS[4:], sequential(LAYERS[4:]), 2), (LAYERS, graph(), 11)],
    ids=["sequential", "functional"],
)
def test_no_other_error(
    tmp_path: Path, layers: list[Layer], model: dict[str, Any], every: int
) -> None:
    whole = old_file(tmp_path / "m.h5", layers, model)
    assert read(whole).tensors
    seen = 0
    for path, value, changed in islice(damaged(model), 0, None, every):
        with h5py.File(whole, "a") as file:
            file.attrs["model_config"] = json.dumps(changed)
        try:
            read(whole)
        except PackageError:
            seen += 1
        except Exception as error:
            raise AssertionError(f"{path} = {value!r}") from error
    assert seen > 100


def test_damaged_bytes_are_refused_too(tmp_path: Path) -> None:
    layers = LAYERS[-1:]
    old = old_file(tmp_path / "m.h5", layers, sequential(layers))
    new = new_file(tmp_path / "n.keras", sequential(layers), new_weights({"dense": layers[0][2]}))
    with (
        zipfile.ZipFile(new) as stored,
        zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    for path, every in ((old, 9), (tmp_path / "m.keras", 3)):
        whole, refused = path.read_bytes(), 0
        for place in range(0, len(whole), every):
            data = bytearray(whole)
            data[place] ^= 0x5A
            path.write_bytes(data)
            try:
                read(path)
            except (PackageError, OSError):
                refused += 1
        assert refused > 50
