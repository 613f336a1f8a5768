"""Functions of rows: activations, norms and chains of `row_parts`. Each row is computed by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, assert_never

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from .kernels.interface import Kernel
from .row_parts import (
    ActivationPart,
    LinearPart,
    NormPart,
    PReluPart,
    RowPart,
    ScalePart,
    SkipPart,
)


class RowFunction(NamedTuple):
    """A function of rows.

    Attributes:
        run: computes it.
        positional: True if torch computes it differently at the end of a tensor, after the last whole vector.
    """

    run: Callable[..., Tensor]
    positional: bool


ACTIVATIONS = {
    "relu": RowFunction(torch.relu, positional=False),
    "tanh": RowFunction(torch.tanh, positional=False),
    "sigmoid": RowFunction(torch.sigmoid, positional=True),
    "gelu": RowFunction(F.gelu, positional=True),
    "silu": RowFunction(F.silu, positional=True),
    "gelu_tanh": RowFunction(partial(F.gelu, approximate="tanh"), positional=True),
    "leaky_relu": RowFunction(F.leaky_relu, positional=False),
    "elu": RowFunction(F.elu, positional=True),
    "celu": RowFunction(F.celu, positional=True),
    "selu": RowFunction(F.selu, positional=True),
    "softplus": RowFunction(F.softplus, positional=True),
    "softsign": RowFunction(F.softsign, positional=False),
    "hardtanh": RowFunction(F.hardtanh, positional=False),
    "relu6": RowFunction(F.relu6, positional=False),
    "hardsigmoid": RowFunction(F.hardsigmoid, positional=False),
    "hardswish": RowFunction(F.hardswish, positional=False),
    "mish": RowFunction(F.mish, positional=True),
    "logsigmoid": RowFunction(F.logsigmoid, positional=False),
    "tanhshrink": RowFunction(F.tanhshrink, positional=False),
}
"""One entry for each name in `row_parts.Activation`. Each turns NaN into NaN."""

Chain = Callable[[Tensor], Tensor]
"""float32[B, in] → float32[B, out]."""


def positional(parts: Sequence[RowPart]) -> bool:
    """True if the bits of a chain's row depend on its place in the batch, beyond those of the kernel."""
    return any(
        (isinstance(part, ActivationPart) and ACTIVATIONS[part.function].positional)
        or (isinstance(part, SkipPart) and positional(part.parts))
        for part in parts
    )


def build_chain(
    kernel: Kernel,
    parts: Sequence[RowPart],
    tensors: Mapping[str, Tensor],
    prefix: str,
    places: Sequence[int] | None = None,
) -> Chain | None:
    """A chain from the tensors of a package, or None if it has no part. `places` as in `shapes_of`."""
    if not parts:
        return None
    places = range(len(parts)) if places is None else places
    functions = [
        _build(kernel, part, tensors, f"{prefix}.{place}")
        for place, part in zip(places, parts, strict=True)
    ]
    return partial(_run, functions)


def _build(kernel: Kernel, part: RowPart, tensors: Mapping[str, Tensor], prefix: str) -> Chain:
    weight, bias = tensors.get(f"{prefix}.weight"), tensors.get(f"{prefix}.bias")
    match part:
        case LinearPart():
            return kernel.linear(tensors[f"{prefix}.weight"], bias)
        case ActivationPart(function=function, options=options):
            return partial(ACTIVATIONS[function].run, **options)
        case PReluPart():
            return partial(F.prelu, weight=tensors[f"{prefix}.weight"])
        case NormPart(norm=norm, eps=eps):
            return partial(NORMS[norm], weight=weight, bias=bias, eps=eps)
        case ScalePart():
            return partial(_scale, tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"])
        case SkipPart(parts=parts):
            inner = build_chain(kernel, parts, tensors, prefix)
            assert inner is not None
            return partial(_skip, inner)
        case unknown:
            assert_never(unknown)


def _run(functions: Sequence[Chain], x: Tensor) -> Tensor:
    for function in functions:
        x = function(x)
    return x


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _rms_norm(x: Tensor, weight: Tensor | None, bias: None, eps: float) -> Tensor:  # noqa: ARG001 - as both have it
    return F.rms_norm(x, x.shape[-1:], weight, eps)


NORMS: dict[str, Callable[..., Tensor]] = {"layer": _layer_norm, "rms": _rms_norm}
"""One entry for each `norm` of a NormPart."""


def _scale(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return x * weight + bias


def _skip(inner: Chain, x: Tensor) -> Tensor:
    return x + inner(x)
