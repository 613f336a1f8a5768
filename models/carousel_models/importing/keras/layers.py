"""Each layer of Keras as operations. No torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from carousel_models.errors import PackageError
from carousel_models.importing.ops import Activate, Array, Linear, Norm, Op, PRelu, Scale, ToOutput

from .activations import activation, relu
from .reading import Layer, Reading
from .recurrent import FORMS, bidirectional, of_a_cell, recurrent

EPSILON = 1e-7
"""keras.config.epsilon(), the least standard deviation of a Normalization."""


def dense(layer: Layer, reading: Reading) -> list[Op]:
    """W x + b, then the activation."""
    layer.refuse(quantization_config=None, lora_rank=None)
    layer.refuse_unknown()
    kernel, *bias = layer.taken("kernel", "bias", optional=1)
    _check_vectors(layer, kernel.shape[-1], *bias)
    if kernel.ndim != 2:
        raise PackageError(
            f"layer {layer.name!r} has a kernel {list(kernel.shape)}; give [in, out]"
        )
    linear = Linear(kernel.T, bias[0] if bias else None)
    return [linear, *activation(layer.config, layer.name, reading.version)]


def activate(layer: Layer, reading: Reading) -> list[Op]:
    """A layer Activation."""
    return list(activation(layer.config, layer.name, reading.version))


def rectify(layer: Layer, _: Reading) -> list[Op]:
    """A layer ReLU."""
    return list(relu(layer.config, layer.name))


def leaky(layer: Layer, _: Reading) -> list[Op]:
    """A layer LeakyReLU. Keras 2 called its slope alpha."""
    slope = layer.config.get("negative_slope", layer.config.get("alpha", 0.3))
    return [Activate("leaky_relu", {"negative_slope": float(slope)})]


def exponential_linear(layer: Layer, _: Reading) -> list[Op]:
    """A layer ELU."""
    return [Activate("elu", {"alpha": float(layer.config.get("alpha", 1.0))})]


def parametric(layer: Layer, _: Reading) -> list[Op]:
    """A layer PReLU whose slopes are the same at each step."""
    (slopes,) = layer.taken("alpha")
    if slopes.size != slopes.shape[-1]:
        raise PackageError(
            f"layer {layer.name!r} (PReLU) has slopes {list(slopes.shape)}, others at each step; train it "
            "with shared_axes=[1]"
        )
    return [PRelu(slopes.reshape(-1))]


def softmax(layer: Layer, _: Reading) -> list[Op]:
    """A layer Softmax over the row."""
    layer.refuse(axis=-1)
    return [ToOutput("softmax")]


def batch_norm(layer: Layer, reading: Reading) -> list[Op]:
    """γ (x − mean) / √(variance + ε) + β, with the running statistics."""
    _check_axis(layer, reading)
    scale, center = layer.config.get("scale", True), layer.config.get("center", True)
    names = [*(["gamma"] if scale else []), *(["beta"] if center else []), "mean", "variance"]
    found = dict(zip(names, layer.taken(*names), strict=True))
    mean, variance = found["mean"].astype(np.float64), found["variance"].astype(np.float64)
    _check_vectors(layer, len(mean), *found.values())
    factor = found.get("gamma", np.ones_like(mean)) / np.sqrt(variance + _epsilon(layer))
    return [Scale(factor, found.get("beta", np.zeros_like(mean)) - mean * factor)]


def layer_norm(layer: Layer, reading: Reading) -> list[Op]:
    """A LayerNormalization over the row."""
    _check_axis(layer, reading)
    layer.refuse(rms_scaling=False)
    scale, center = layer.config.get("scale", True), layer.config.get("center", True)
    names = [*(["gamma"] if scale else []), *(["beta"] if center else [])]
    found = dict(zip(names, layer.taken(*names), strict=True))
    _check_vectors(layer, None, *found.values())
    return [Norm("layer", found.get("gamma"), found.get("beta"), _epsilon(layer))]


def rms_norm(layer: Layer, reading: Reading) -> list[Op]:
    """An RMSNormalization over the row."""
    _check_axis(layer, reading)
    (scale,) = layer.taken("scale")
    return [Norm("rms", scale, None, float(layer.config.get("epsilon", 1e-6)))]


def normalization(layer: Layer, reading: Reading) -> list[Op]:
    """(x − mean) / √variance, from the data or from the configuration."""
    _check_axis(layer, reading)
    layer.refuse(invert=False)
    if layer.arrays:
        mean, variance, *_ = layer.taken("mean", "variance", "count", optional=1)
    else:
        given = [layer.config.get(name) for name in ("mean", "variance")]
        if None in given:
            raise PackageError(
                f"layer {layer.name!r} (Normalization) has neither data nor constants; call adapt first"
            )
        mean, variance = (np.asarray(value, np.float64) for value in given)
    mean, variance = np.ravel(mean).astype(np.float64), np.ravel(variance).astype(np.float64)
    factor = 1 / np.maximum(np.sqrt(variance), EPSILON)
    return [Scale(factor, 0.0 - mean * factor)]


def masking(layer: Layer, reading: Reading) -> list[Op]:
    """A layer Masking, which a session has no use for."""
    reading.check_mask(layer.name)
    return []


def left_out(layer: Layer, reading: Reading) -> list[Op]:
    """A layer that acts in training alone."""
    if layer.kind not in ("Identity", "InputLayer"):
        reading.notes.append(f"{layer.name} ({layer.kind}) is left out: it acts in training alone")
    return []


def time_distributed(layer: Layer, reading: Reading) -> list[Op]:
    """A layer for single rows, applied at each step. Here all such layers are."""
    inner = layer.inner(layer.config.get("layer"), layer.arrays)
    if (
        inner.kind in (*FORMS, "RNN", "Bidirectional", "TimeDistributed")
        or inner.kind not in LAYERS
    ):
        raise PackageError(
            f"layer {layer.name!r} applies a {inner.kind} at each step, and packages have rows there; "
            "save the model with a custom module"
        )
    return LAYERS[inner.kind](inner, reading)


def _check_axis(layer: Layer, reading: Reading) -> None:
    """Refuses norms over other dimensions than the row."""
    axis = layer.config.get("axis", -1)
    axes = list(axis) if isinstance(axis, list | tuple) else [axis]
    if axes not in ([-1], [reading.rank - 1]):
        raise PackageError(
            f"layer {layer.name!r} ({layer.kind}) works along axis {axis}; packages have rows: train it with "
            "axis=-1"
        )


def _check_vectors(layer: Layer, width: int | None, *arrays: Array) -> None:
    width = len(arrays[0]) if width is None and arrays else width
    if any(array.shape != (width,) for array in arrays):
        shapes = ", ".join(str(list(array.shape)) for array in arrays)
        raise PackageError(
            f"layer {layer.name!r} ({layer.kind}) has arrays {shapes}; each must be [{width}]"
        )


def _epsilon(layer: Layer) -> float:
    return float(layer.config.get("epsilon", 1e-3))


LAYERS: dict[str, Callable[[Layer, Reading], list[Op]]] = {
    **dict.fromkeys(FORMS, recurrent),
    "RNN": of_a_cell,
    "Bidirectional": bidirectional,
    "TimeDistributed": time_distributed,
    "Dense": dense,
    "Activation": activate,
    "ReLU": rectify,
    "LeakyReLU": leaky,
    "ELU": exponential_linear,
    "PReLU": parametric,
    "Softmax": softmax,
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "Normalization": normalization,
    "Masking": masking,
    **dict.fromkeys(
        (
            "InputLayer", "Identity", "Dropout", "SpatialDropout1D", "GaussianDropout",
            "GaussianNoise", "AlphaDropout", "ActivityRegularization",
        ),
        left_out,
    ),
}  # fmt: skip
"""Functions of layers by their class. Embedding and Add are read with the whole model."""
