"""Row parts and heads of a manifest from operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from carousel_models.errors import PackageError
from carousel_models.row_parts import (
    ActivationPart,
    LinearPart,
    NormPart,
    PReluPart,
    RowPart,
    ScalePart,
    SkipPart,
)
from carousel_models.spec import ChainHead, Head, LinearHead, MlpHead, NoHead

from .ops import Activate, Array, Direction, Linear, Norm, Op, PRelu, Recur, Scale, Skip, ToOutput

CUSTOM = "save the model with carousel_models.save and a custom module"
"""The fix for what a manifest does not have."""


def row_parts(ops: Sequence[Op], prefix: str) -> tuple[tuple[RowPart, ...], dict[str, Array]]:
    """Parts of a manifest, and their arrays, named PREFIX.NUMBER.weight and so on.

    Raises:
        PackageError: an operation is no row part, or is at a place where a manifest has none.
    """
    parts: list[RowPart] = []
    arrays: dict[str, Array] = {}
    for number, op in enumerate(ops):
        part, found = _row_part(op, f"{prefix}.{number}")
        parts.append(part)
        arrays |= found
    return tuple(parts), arrays


def _row_part(op: Op, prefix: str) -> tuple[RowPart, dict[str, Array]]:
    arrays = named(prefix, op)
    match op:
        case Linear(weight=weight, bias=bias):
            return LinearPart(width=len(weight), bias=bias is not None), arrays
        case Scale():
            return ScalePart(), arrays
        case Activate(name=name, options=options):
            function: Any = name
            return ActivationPart(function=function, options=options), arrays
        case PRelu(slopes=slopes):
            return PReluPart(slopes=len(slopes)), arrays
        case Norm(kind=kind, weight=weight, bias=bias, eps=eps):
            norm: Any = kind
            has_weight, has_bias = weight is not None, bias is not None
            return NormPart(norm=norm, eps=eps, weight=has_weight, bias=has_bias), arrays
        case Skip(ops=inner):
            parts, arrays = row_parts(inner, prefix)
            if any(isinstance(part, SkipPart) for part in parts):
                raise PackageError(f"a residual is inside of another one; {CUSTOM}")
            plain: Any = parts
            return SkipPart(parts=plain), arrays
        case ToOutput(name=name):
            raise PackageError(f"{name} is not the last operation of the model; {CUSTOM}")
        case Recur():
            raise AssertionError("a recurrent layer is no row part")
        case unknown:
            assert_never(unknown)


def named(prefix: str, op: Op | Direction) -> dict[str, Array]:
    """The arrays of one operation by their names in a package."""
    match op:
        case Scale(factor=factor, shift=shift):
            fields: dict[str, Array | None] = {"weight": factor, "bias": shift}
        case Linear(weight=weight, bias=bias) | Norm(weight=weight, bias=bias):
            fields = {"weight": weight, "bias": bias}
        case PRelu(slopes=slopes):
            fields = {"weight": slopes}
        case Direction():
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "peepholes")
            fields = {name: getattr(op, name) for name in names}
        case Activate() | ToOutput() | Recur() | Skip():
            fields = {}
        case unknown:
            assert_never(unknown)
    return {f"{prefix}.{name}": value for name, value in fields.items() if value is not None}


def head_of(ops: Sequence[Op]) -> tuple[Head, dict[str, Array]]:
    """The simplest head that has these operations, and its arrays."""
    if not ops:
        return NoHead(), {}
    linears = [op for op in ops[::2] if isinstance(op, Linear)]
    activations = [op for op in ops[1::2] if isinstance(op, Activate)]
    alternating = len(linears) + len(activations) == len(ops) and len(ops) % 2 == 1
    functions = {(op.name, *sorted(op.options.items())) for op in activations}
    biases = {linear.bias is not None for linear in linears}
    if (
        not alternating
        or len(functions) > 1
        or len(biases) > 1
        or any(op.options for op in activations)
    ):
        parts, arrays = row_parts(ops, "head")
        return ChainHead(parts=parts), arrays
    arrays = {}
    for number, linear in enumerate(linears):
        arrays |= named(f"head.{number}", linear)
    *hidden, width = [len(linear.weight) for linear in linears]
    if not hidden:
        return LinearHead(width=width, bias=biases.pop()), arrays
    activation: Any = activations[0].name
    return MlpHead(
        hidden=tuple(hidden), width=width, activation=activation, bias=biases.pop()
    ), arrays
