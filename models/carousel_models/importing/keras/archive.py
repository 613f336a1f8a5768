"""Files of Keras: the model as JSON, and the weights of each layer. Keras itself is not used.

`.keras` is a zip with `config.json` and `model.weights.h5`. `.weights.h5` is such a file of weights alone.
`.h5` is the older form: HDF5 with the JSON as an attribute, or weights alone.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from carousel_models.damage import UNREADABLE, is_of_the_system
from carousel_models.errors import PackageError
from carousel_models.importing.ops import Array
from carousel_models.spec import MAX_PARAMETERS

_DAMAGED: tuple[type[Exception], ...] = (*UNREADABLE, KeyError, TypeError)
JSON_BYTES = 64 << 20
WEIGHTS_BYTES = 16 << 30
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
"""Groups that hold the layers: of Keras 3, and of tf.keras 2.12 to 2.15."""
PARTS = ("cell", "layer", "forward_layer", "backward_layer")
"""Parts of layers that have weights, in the order of `layer.weights`."""

Numbering = Callable[[Sequence[tuple[str, str]]], list[list[Array]]]
"""From (class, name) of all layers to the arrays of each, in the order of `layer.weights`."""


class KerasFile:
    """An open file of Keras.

    Attributes:
        model: the model's JSON, or None in a file of weights alone.
        version: of the Keras that wrote it, or "".
        weights: gives the arrays of each layer.
    """

    def __init__(self, model: dict[str, Any] | None, version: str, weights: Numbering) -> None:
        self.model = model
        self.version = version
        self.weights = weights


@contextmanager
def opened(path: Path) -> Iterator[KerasFile]:
    """Opens a file of Keras.

    Raises:
        PackageError: it is none, or it is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                model = as_json(_member(archive, "config.json", JSON_BYTES), path)
                about = as_json(_member(archive, "metadata.json", JSON_BYTES), path)
                weights = io.BytesIO(_member(archive, "model.weights.h5", WEIGHTS_BYTES))
            with h5py.File(weights, "r") as file:
                yield KerasFile(model, str(about.get("keras_version", "")), _numbered(file))
            return
        with h5py.File(path, "r") as file:
            yield _from_hdf5(file, path)
    except _DAMAGED as error:
        if is_of_the_system(error):
            raise
        raise PackageError(
            f"{path} is not a whole file of Keras: {error}; save the model again"
        ) from error


def as_json(text: bytes, path: Path) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        PackageError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path} holds no JSON of a model: {error}; save it again") from error
    if not isinstance(found, dict):
        raise PackageError(f"{path} holds JSON that is no model; give that of model.to_json()")
    return found


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    size = archive.getinfo(name).file_size
    if size > most_bytes:
        raise PackageError(f"{name} has {size:,} bytes, of at most {most_bytes:,}; split the model")
    return archive.read(name)


def _from_hdf5(file: h5py.File, path: Path) -> KerasFile:
    if any(name in file for name in CONTAINERS):
        return KerasFile(None, "", _numbered(file))
    group = file.get("model_weights", file)
    if not _listed(group, "layer_names"):
        raise PackageError(
            f"{path} is HDF5 without layers of Keras; save it with model.save or model.save_weights"
        )
    text = file.attrs.get("model_config")
    model = None if text is None else as_json(_text(text).encode(), path)
    version = _text(group.attrs.get("keras_version", file.attrs.get("keras_version", "")))
    return KerasFile(model, version, _listed_weights(group, by_name=model is not None))


def _numbered(file: h5py.File) -> Numbering:
    """Keras 3 names the groups after the layers' classes, and counts equal ones."""

    def weights(layers: Sequence[tuple[str, str]]) -> list[list[Array]]:
        container = next((file[name] for name in CONTAINERS if name in file), None)
        if container is None:
            raise PackageError("the file has no layers; save the model again")
        counts: dict[str, int] = {}
        found = []
        for kind, _ in layers:
            name = _snake_case(kind)
            counts[name] = counts.get(name, -1) + 1
            name = f"{name}_{counts[name]}" if counts[name] else name
            found.append(_collected(_group(container, name)) if name in container else [])
        _check_all_used(container, layers, counts)
        return found

    return weights


def _check_all_used(
    container: h5py.Group, layers: Sequence[tuple[str, str]], counts: dict[str, int]
) -> None:
    known = set(counts)
    known |= {f"{name}_{number}" for name, last in counts.items() for number in range(1, last + 1)}
    strange = [name for name in container if name not in known and _collected(container[name])]
    if strange:
        raise PackageError(
            f"the file has weights of {', '.join(strange)}, and the model has the layers "
            f"{', '.join(kind for kind, _ in layers)}; give the configuration of this model"
        )


def _collected(group: h5py.Group) -> list[Array]:
    """The arrays of a layer and of its parts."""
    found: list[Array] = []
    if "vars" in group:
        own = _group(group, "vars")
        found += [_array(own, number) for number in sorted(own, key=int)]
    for part in PARTS:
        if part in group:
            found += _collected(_group(group, part))
    return found


def _listed_weights(group: h5py.Group, by_name: bool) -> Numbering:
    """Older files list the layers and their weights by name.

    The names are those of the file's own model. Another model has other names. There, Keras and this function
    go by the order of the layers with weights.
    """

    def weights(layers: Sequence[tuple[str, str]]) -> list[list[Array]]:
        stored = {}
        for name in _listed(group, "layer_names"):
            layer = _group(group, name)
            arrays = [_array(layer, weight) for weight in _listed(layer, "weight_names")]
            if arrays:
                stored[name] = arrays
        names = [name for _, name in layers]
        if by_name and set(stored) <= set(names):
            return [stored.get(name, []) for name in names]
        weighted = [kind not in WEIGHTLESS for kind, _ in layers]
        if sum(weighted) != len(stored):
            raise PackageError(
                f"the file has weights of {len(stored)} layers ({', '.join(stored)}), and the model has "
                f"{sum(weighted)} layers with weights; give the configuration of this model"
            )
        in_order = iter(stored.values())
        return [next(in_order) if has else [] for has in weighted]

    return weights


WEIGHTLESS = {
    "InputLayer", "Masking", "Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise",
    "AlphaDropout", "ActivityRegularization", "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax",
    "Add", "Identity",
}  # fmt: skip
"""Classes of layers that never have weights."""


def _group(group: h5py.Group, name: str) -> h5py.Group:
    _check_link(group, name)
    found = group[name]
    if not isinstance(found, h5py.Group):
        raise PackageError(f"{name} is no group of layers; save the model again")
    return found


def _array(group: h5py.Group, name: str) -> Array:
    """A dataset as float32. It must lie in the file itself."""
    _check_link(group, name)
    data = group[name]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise PackageError(f"{data.name} is no dataset of this file; save the model again")
    if data.size is None or data.size > MAX_PARAMETERS or data.dtype.kind not in "fiu":
        raise PackageError(
            f"{data.name} is {data.dtype}{list(data.shape)}; save the model with weights of float32"
        )
    return np.asarray(data[()], np.float32)


def _check_link(group: h5py.Group, path: str) -> None:
    """Refuses links, which could name any file of this machine."""
    for name in path.split("/"):
        if name not in group or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise PackageError(f"{path} is missing or a link; save the model again as one file")
        group = group[name]


def _listed(group: h5py.Group, name: str) -> list[str]:
    """An attribute with names. A long one is in parts, NAME0, NAME1 and so on."""
    if name in group.attrs:
        return [_text(value) for value in group.attrs[name]]
    found: list[str] = []
    while (part := f"{name}{len(found)}") in group.attrs:
        found.append(part)
    return [_text(value) for part in found for value in group.attrs[part]]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _snake_case(name: str) -> str:
    """A class's name as Keras writes it: SimpleRNN is simple_rnn."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
