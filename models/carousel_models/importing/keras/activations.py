"""Activations of Keras by the names of a manifest. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carousel_models.errors import PackageError
from carousel_models.importing.ops import Activate, Op, ToOutput

ACTIVATIONS: dict[str, tuple[Op, ...]] = {
    "linear": (),
    "relu": (Activate("relu"),),
    "relu6": (Activate("relu6"),),
    "leaky_relu": (Activate("leaky_relu", {"negative_slope": 0.2}),),
    "elu": (Activate("elu"),),
    "celu": (Activate("celu"),),
    "selu": (Activate("selu"),),
    "softplus": (Activate("softplus"),),
    "softsign": (Activate("softsign"),),
    "silu": (Activate("silu"),),
    "swish": (Activate("silu"),),
    "gelu": (Activate("gelu"),),
    "tanh": (Activate("tanh"),),
    "tanh_shrink": (Activate("tanhshrink"),),
    "sigmoid": (Activate("sigmoid"),),
    "log_sigmoid": (Activate("logsigmoid"),),
    "hard_tanh": (Activate("hardtanh"),),
    "hard_silu": (Activate("hardswish"),),
    "hard_swish": (Activate("hardswish"),),
    "hard_sigmoid": (Activate("hardsigmoid"),),
    "mish": (Activate("mish"),),
    "softmax": (ToOutput("softmax"),),
    "log_softmax": (ToOutput("log_softmax"),),
}
"""Operations of each activation. The hard ones are those of Keras 3."""


def name_of(activation: Any) -> str:
    """The name of an activation in a configuration: a string, or a function with the string as its config."""
    if activation is None:
        return "linear"
    if isinstance(activation, dict):
        activation = activation.get("config")
    return activation if isinstance(activation, str) else "of a class"


def activation(config: Mapping[str, Any], layer: str, version: str) -> tuple[Op, ...]:
    """The operations of a layer's activation.

    Raises:
        PackageError: a manifest does not have it.
    """
    name = name_of(config.get("activation"))
    if name not in ACTIVATIONS:
        raise PackageError(
            f"layer {layer!r} has the activation {name}, which packages do not have, only "
            f"{', '.join(ACTIVATIONS)}; train with one of these"
        )
    if name == "hard_sigmoid" and not version.startswith("3."):
        raise PackageError(
            f"layer {layer!r} has the hard_sigmoid of Keras {version or 2}, max(0, min(1, x/5 + 1/2)), and "
            "packages have that of Keras 3, with x/6; train with sigmoid"
        )
    return ACTIVATIONS[name]


def relu(config: Mapping[str, Any], layer: str) -> tuple[Op, ...]:
    """The operations of a layer ReLU.

    Raises:
        PackageError: it has a threshold, or an upper end other than 6.
    """
    most, slope = config.get("max_value"), config.get("negative_slope") or 0.0
    forms = {(None, False): Activate("relu"), (6.0, False): Activate("relu6")}
    forms[None, True] = Activate("leaky_relu", {"negative_slope": float(slope)})
    form = forms.get((most, bool(slope)))
    if form is None or config.get("threshold"):
        raise PackageError(
            f"layer {layer!r} is a ReLU with max_value {most}, negative_slope {slope} and threshold "
            f"{config.get('threshold')}; packages have relu, relu6 and leaky_relu alone"
        )
    return (form,)
