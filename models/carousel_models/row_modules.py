"""Torch's layers of rows as parts of a manifest, with their tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import PackageError
from .row_parts import (
    OPTIONS,
    ActivationPart,
    LinearPart,
    NormPart,
    PReluPart,
    RowPart,
    ScalePart,
)

Named = tuple[RowPart, dict[str, Tensor]]
"""A part, and its tensors by name."""


def described(module: nn.Module) -> tuple[str, dict[str, float]] | None:
    """The name and the options of an activation module. None if a manifest has no such activation."""
    for kind, function in ACTIVATION_MODULES.items():
        if isinstance(module, kind):
            return function, {name: getattr(module, name) for name in OPTIONS.get(function, ())}
    match module:
        case nn.GELU():
            return ("gelu" if module.approximate == "none" else "gelu_tanh"), {}
        case nn.RReLU():
            return "leaky_relu", {"negative_slope": (module.lower + module.upper) / 2}
    return None


ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU6: "relu6",  # a kind of Hardtanh
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.LeakyReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.CELU: "celu",
    nn.SELU: "selu",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
    nn.Hardtanh: "hardtanh",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
    nn.Mish: "mish",
    nn.LogSigmoid: "logsigmoid",
    nn.Tanhshrink: "tanhshrink",
}
"""Activations that are one function of a manifest. GELU and RReLU have two forms each."""


def norm_eps(eps: float | None, dtype: torch.dtype) -> float:
    """The eps of a norm. None is that of the type, as for nn.RMSNorm."""
    return torch.finfo(dtype).eps if eps is None else eps


def part_of(module: nn.Module) -> Named | None:
    """The part that a layer is. None if a manifest has none.

    Raises:
        PackageError: it is a norm over other dimensions than the row.
    """
    make = next((found for kind, found in _PARTS.items() if isinstance(module, kind)), None)
    if make is not None:
        return make(module)
    activation = described(module)
    if activation is None:
        return None
    function, options = activation
    changed = {n: float(v) for n, v in options.items() if OPTIONS[function][n] != v}
    return ActivationPart.model_validate({"function": function, "options": changed}), {}


def batch_norm_scale(module: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """BatchNorm with its running statistics as a∘x + b, float64.

    Raises:
        PackageError: it has none.
    """
    if module.running_mean is None or module.running_var is None:
        raise PackageError(
            "a BatchNorm1d without running statistics takes those of a batch, whose rows are other clients'; "
            "train it with track_running_stats"
        )
    a = (module.running_var.detach().double() + module.eps).rsqrt()
    if module.affine:
        a = a * module.weight.detach().double()
    b = -module.running_mean.double() * a
    return a, b + module.bias.detach().double() if module.affine else b


def put_scale(named: list[Named], scale: tuple[Tensor, Tensor]) -> None:
    """Adds a∘x + b to a chain. A linear layer before it takes it up, in float64."""
    a, b = scale
    part, tensors = named[-1] if named else (None, {})
    if not isinstance(part, LinearPart):
        named.append((ScalePart(), {"weight": a.float(), "bias": b.float()}))
        return
    weight = tensors["weight"].detach().double().to(a.device) * a[:, None]
    if "bias" in tensors:
        b = tensors["bias"].detach().double().to(a.device) * a + b
    named[-1] = (
        LinearPart(width=part.width),
        {"weight": weight.float(), "bias": b.float()},
    )


def _linear(module: Any) -> Named:
    bias = {} if module.bias is None else {"bias": module.bias}
    return LinearPart(width=module.out_features, bias=bool(bias)), {"weight": module.weight} | bias


def _norm(module: Any) -> Named:
    if len(module.normalized_shape) != 1:
        raise PackageError(
            f"a norm over {list(module.normalized_shape)} is not over a row; give one dimension"
        )
    found = {"weight": module.weight, "bias": getattr(module, "bias", None)}
    tensors = {name: value for name, value in found.items() if value is not None}
    part = NormPart(
        norm="layer" if isinstance(module, nn.LayerNorm) else "rms",
        eps=norm_eps(module.eps, torch.float32),
        weight="weight" in tensors,
        bias="bias" in tensors,
    )
    return part, tensors


def _prelu(module: Any) -> Named:
    return PReluPart(slopes=module.num_parameters), {"weight": module.weight}


_PARTS: dict[type[nn.Module], Callable[[Any], Named]] = {
    nn.Linear: _linear,
    nn.LayerNorm: _norm,
    nn.RMSNorm: _norm,
    nn.PReLU: _prelu,
}

ROW_MODULES: tuple[type[nn.Module], ...] = (
    *_PARTS, nn.BatchNorm1d, *ACTIVATION_MODULES, nn.GELU, nn.RReLU,
)  # fmt: skip
"""All layers that a head may have."""
