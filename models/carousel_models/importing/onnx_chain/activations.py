"""Activations of ONNX by their names and options in a manifest. No torch."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np

from carousel_models.importing.ops import Activate, Op, PRelu

from .fusing import ABS, ERF
from .graph import Node
from .reading import Call, meant, rows_of
from .values import Const, NotAChainError, Value

PLAIN = {
    "Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Softplus": "softplus",
    "Softsign": "softsign", "HardSwish": "hardswish", "Mish": "mish", "Erf": ERF, "Abs": ABS,
}  # fmt: skip
"""Activations without options."""


def plain(call: Call) -> list[Value]:
    """An activation without options."""
    return [rows_of(call.values[0]).then(Activate(PLAIN[call.node.op]))]


def leaky_relu(node: Node) -> Op:
    """LeakyRelu."""
    return _with_options("leaky_relu", negative_slope=(node.attribute("alpha", 0.01), 0.01))


def elu(node: Node) -> Op:
    """Elu."""
    return _with_options("elu", alpha=(node.attribute("alpha", 1.0), 1.0))


def celu(node: Node) -> Op:
    """Celu."""
    return _with_options("celu", alpha=(node.attribute("alpha", 1.0), 1.0))


def selu(node: Node) -> Op:
    """Selu with the constants of its definition."""
    _check(node, alpha=1.6732632423543772, gamma=1.0507009873554805)
    return Activate("selu")


def hard_sigmoid(node: Node) -> Op:
    """HardSigmoid with torch's slope. ONNX's default is another one."""
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    if not np.allclose([alpha, beta], [1 / 6, 0.5], rtol=1e-6):
        raise NotAChainError(f"it has alpha={alpha:.4g}, and a package has torch's 1/6")
    return Activate("hardsigmoid")


def gelu(node: Node) -> Op:
    """Gelu in both forms."""
    forms = {"none": "gelu", "tanh": "gelu_tanh"}
    return Activate(forms[node.attribute("approximate", "none")])


OF_NODES: dict[str, Callable[[Node], Op]] = {
    "LeakyRelu": leaky_relu,
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "HardSigmoid": hard_sigmoid,
    "Gelu": gelu,
}
"""Activations whose options are attributes."""


def with_attributes(call: Call) -> list[Value]:
    """An activation whose options are attributes."""
    return [rows_of(call.values[0]).then(OF_NODES[call.node.op](call.node))]


def clip(call: Call) -> list[Value]:
    """A Clip between two constants."""
    bounds = [call.node.attribute("min", None), call.node.attribute("max", None)]
    for place, value in enumerate(call.values[1:3]):
        if value is not None and not isinstance(value, Const):
            raise NotAChainError("its bounds are not constant")
        bounds[place] = bounds[place] if value is None else float(value.array.reshape(-1)[0])
    low, high = (
        float(end if end is not None else other)
        for end, other in zip(bounds, (-inf, inf), strict=True)
    )
    rows = rows_of(call.values[0])
    if (low, high) in CLIPS:
        return [rows.then(Activate(CLIPS[low, high]))]
    if abs(low) > _LARGEST or abs(high) > _LARGEST:
        if low == 0:
            return [rows.then(Activate("relu"))]
        raise NotAChainError("it has one bound, and a package has two")
    op = _with_options("hardtanh", min_val=(low, -1.0), max_val=(high, 1.0))
    return [rows.then(op)]


_LARGEST = 3.4e38
CLIPS = {(0.0, inf): "relu", (0.0, 6.0): "relu6"}


def prelu(call: Call) -> list[Value]:
    """A PRelu with one slope, or one for each number of a row."""
    rows, slopes = call.values
    if not isinstance(slopes, Const) or slopes.array.size not in (
        1,
        (slopes.array.shape or (1,))[-1],
    ):
        raise NotAChainError("its slopes are not one, or one for each number of a row")
    return [rows_of(rows).then(PRelu(slopes.array.reshape(-1)))]


def _with_options(name: str, **options: tuple[float, float]) -> Activate:
    """The options that differ from torch's defaults, rounded as they were meant."""
    given = {key: meant(value) for key, (value, _) in options.items()}
    return Activate(name, {k: v for k, v in given.items() if v != options[k][1]})


def _check(node: Node, **wanted: float) -> None:
    for name, value in wanted.items():
        found = node.attribute(name, value)
        if abs(found - value) > 1e-4:
            raise NotAChainError(f"it has {name}={found:.5g}, and a package has {value:.5g}")
