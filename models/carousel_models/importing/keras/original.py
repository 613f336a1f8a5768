"""The original of a Keras file, run by Keras where that is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carousel_models.importing.imported import NoOriginalError

from .activations import name_of

Layers = list[dict[str, Any]]


def original_of(path: Path, model: dict[str, Any], *, alone: bool) -> Callable[[Tensor], Tensor]:
    """A function of x, as `save(reference=)` takes it, that runs Keras.

    The original gets sequences of any length, returns a row for each step, has no mask, and returns its rows
    before a last softmax or sigmoid. All of this is changed in its configuration, not in its weights.

    Args:
        path: the file.
        model: its JSON.
        alone: the file holds weights alone.

    Raises:
        NoOriginalError: Keras is missing or cannot load the file, or a layer is code of the file.
    """
    if find_spec("keras") is None:
        raise NoOriginalError("keras is not installed")
    code = code_in(model)
    if code:
        raise NoOriginalError(f"Keras would run code of the file: {code}")
    import keras

    try:
        loaded = _loaded(keras, path, model if alone else None)
        served = type(loaded).from_config(as_served(loaded.get_config()))
        served(np.zeros((1, 1, *loaded.input_shape[2:]), np.float32))
        served.set_weights(loaded.get_weights())
    except Exception as error:
        raise NoOriginalError(
            f"Keras {keras.__version__} cannot load {path.name}: {error!r}"
        ) from error

    def run(x: Tensor) -> Tensor:
        rows = served(np.asarray(x), training=False)
        return torch.tensor(np.asarray(keras.ops.convert_to_numpy(rows), np.float32))

    return run


def _loaded(keras: Any, path: Path, model: dict[str, Any] | None) -> Any:
    if model is None:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    loaded = keras.models.model_from_json(json.dumps(model))
    loaded.load_weights(path)
    return loaded


MODULES = ("keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras")
"""Python modules that the JSON of a model may name."""


def code_in(value: Any) -> str:
    """The first class in a model's JSON that is not Keras's, or that holds code. "" if there is none."""
    if isinstance(value, list):
        return next(filter(None, map(code_in, value)), "")
    if not isinstance(value, dict):
        return ""
    kind, module = str(value.get("class_name", "")), value.get("module")
    function = module == "builtins" and kind == "function"
    own = module is None or function or any(f"{module}.".startswith(f"{m}.") for m in MODULES)
    if "Lambda" in kind or not own:
        return f"{module}.{kind}" if module else kind
    return next(filter(None, map(code_in, value.values())), "")


def as_served(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model that runs as Carousel serves it. The given one is not changed."""
    layers: Layers = [_served(layer) for layer in config["layers"]]
    acting = [layer for layer in layers if layer["class_name"] not in SILENT]
    if acting:
        _without_transform(acting[-1])
    kept = {name: value for name, value in config.items() if name != "build_input_shape"}
    return kept | {"layers": layers}


SILENT = ("Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout", "Identity", "InputLayer")
"""Layers without effect. One of them may be the last."""

CHANGED: dict[str, dict[str, Any]] = {
    "LSTM": {"return_sequences": True, "stateful": False},
    "GRU": {"return_sequences": True, "stateful": False},
    "SimpleRNN": {"return_sequences": True, "stateful": False},
    "RNN": {"return_sequences": True, "stateful": False},
    "Bidirectional": {"return_sequences": True, "stateful": False},
    "Embedding": {"mask_zero": False},
    "LayerNormalization": {"axis": -1},
    "BatchNormalization": {"axis": -1},
}
"""Options by class. They are set where a configuration has them."""


def _served(layer: dict[str, Any]) -> dict[str, Any]:
    kind, config = layer["class_name"], dict(layer["config"])
    if kind == "Masking":
        return _linear(layer)
    for name, value in CHANGED.get(kind, {}).items():
        if name in config:
            config[name] = value
    for name in ("batch_shape", "batch_input_shape"):
        if config.get(name):
            config[name] = [None, None, *config[name][2:]]
    for name in ("layer", "backward_layer"):
        if isinstance(config.get(name), dict):
            config[name] = _served(config[name])
    kept = {name: value for name, value in layer.items() if name != "build_config"}
    called: dict[str, Any] = without_masks(kept)
    return called | {"config": config}


def without_masks(value: Any) -> Any:
    """JSON of a layer whose calls get no masks."""
    if isinstance(value, dict):
        return {
            name: None if name == "mask" else without_masks(inner) for name, inner in value.items()
        }
    return [without_masks(inner) for inner in value] if isinstance(value, list) else value


def _without_transform(layer: dict[str, Any]) -> None:
    """Takes a softmax or sigmoid out of the last layer, because a probe has the rows before it."""
    config = layer["config"]
    if layer["class_name"] == "Softmax":
        layer |= _linear(layer)
    elif layer["class_name"] == "TimeDistributed":
        _without_transform(config["layer"])
    elif name_of(config.get("activation")) in ("softmax", "log_softmax", "sigmoid"):
        config["activation"] = "linear"


def _linear(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer without effect in the place of one."""
    config = {"name": layer["config"]["name"], "activation": "linear"}
    return layer | {"module": "keras.layers", "class_name": "Activation", "config": config}
