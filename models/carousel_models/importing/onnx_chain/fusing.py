"""Operations that are written as several: norms, and activations such as x σ(x). No torch."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np

from carousel_models.importing.ops import Activate, Norm, Op, Scale

from .reading import Call, meant, rows_of
from .values import Above, Const, NormStage, NotAChainError, Rows, Value, is_prefix

ERF, ABS = "Erf", "Abs"
"""Parts of gelu and of softsign. A manifest does not have them alone."""

THRESHOLD = 20.0
"""Torch's softplus is linear above it."""

_TWO_BRANCHES = "it multiplies rows of two branches, which no activation of a manifest does"


def mean(call: Call) -> list[Value]:
    """The mean over a row, which begins a norm."""
    value = call.values[0]
    axes = call.node.attribute("axes", None)
    if axes is None and len(call.values) > 1 and isinstance(call.values[1], Const):
        axes = [int(axis) for axis in np.ravel(call.values[1].array)]
    rows = value.rows if isinstance(value, NormStage) else rows_of(value).bound()
    if axes not in ([-1], [len(rows.axes) - 1]) or not call.node.attribute("keepdims", 1):
        raise NotAChainError("it is a mean over other numbers than those of a row")
    if isinstance(value, NormStage):
        return [_stage(value, "square", "variance")]
    return [NormStage(rows, "mean", centered=False)]


def power(call: Call) -> list[Value]:
    """The square in a norm."""
    value, exponent = call.values
    if (
        not isinstance(exponent, Const)
        or exponent.array.size != 1
        or np.ravel(exponent.array)[0] != 2
    ):
        raise NotAChainError("it is a power other than a square")
    if isinstance(value, NormStage):
        return [_stage(value, "centered", "square")]
    return [NormStage(rows_of(value).bound(), "square", centered=False)]


def with_eps(stage: NormStage, eps: Const) -> NormStage:
    """The variance with a small number added."""
    found = _stage(stage, "variance", "shifted")
    if eps.array.size != 1:
        raise NotAChainError("it adds several numbers to a variance")
    return replace(found, eps=meant(np.ravel(eps.array)[0]))


def root(call: Call) -> list[Value]:
    """The square root in a norm."""
    stage = call.values[0]
    if not isinstance(stage, NormStage):
        raise NotAChainError("it is a root outside of a norm")
    name = "deviation"
    return [_stage(stage, "variance" if stage.name == "variance" else "shifted", name)]


def reciprocal(call: Call) -> list[Value]:
    """The reciprocal in a norm."""
    stage = call.values[0]
    if not isinstance(stage, NormStage):
        raise NotAChainError("it is a reciprocal outside of a norm")
    return [_stage(stage, "deviation", "inverse")]


def difference(one: Rows, two: NormStage | Rows) -> Value:
    """X − mean(x), or x − tanh(x)."""
    if isinstance(two, NormStage):
        if two.name != "mean" or not _same(one, two.rows):
            raise NotAChainError("it subtracts the mean of other rows")
        return NormStage(two.rows, "centered", centered=True)
    if _tail(one, two) == ("tanh",):
        return one.then(Activate("tanhshrink"))
    raise NotAChainError("it subtracts rows of two branches")


def above(call: Call) -> list[Value]:
    """A comparison with a number, as in torch's softplus."""
    rows, threshold = call.values
    if not isinstance(threshold, Const) or threshold.array.size != 1:
        raise NotAChainError("it compares rows with other ones")
    return [Above(rows_of(rows).bound(), float(np.ravel(threshold.array)[0]))]


def softplus(condition: Above, one: Value | None, two: Value | None) -> Rows:
    """Torch's form, which is the identity above a threshold."""
    given = one if isinstance(one, Rows) and isinstance(two, Rows) else None
    if (
        given is None
        or not isinstance(two, Rows)
        or _tail(given, two) != ("softplus",)
        or not _same(given, condition.rows)
        or condition.threshold != THRESHOLD
    ):
        raise NotAChainError("it chooses between rows")
    return two


def softsign(one: Rows, two: Rows) -> Rows:
    """X / (1 + |x|)."""
    tail = two.ops[len(one.ops) :] if is_prefix(one.ops, two.ops) else ()
    if len(tail) == 2:
        first, last = tail
        if isinstance(first, Activate) and first.name == ABS and _is_one_more(last):
            return one.then(Activate("softsign"))
    raise NotAChainError("it divides rows by other ones")


def _is_one_more(op: Op) -> bool:
    """True for 1 + x."""
    return isinstance(op, Scale) and bool((op.factor == 1).all() and (op.shift == 1).all())


def quotient(one: Value | None, deviation: NormStage) -> Value:
    """The normalised row."""
    _stage(deviation, "deviation", "inverse")
    return _normalised(one, deviation)


def product(one: Value | None, two: Value | None) -> Value:
    """A square, or a normalised row, of stages of a norm."""
    stages = [value for value in (one, two) if isinstance(value, NormStage)]
    if len(stages) == 2 and one is two and stages[0].name == "centered":
        return _stage(stages[0], "centered", "square")
    for value, stage in ((one, two), (two, one)):
        if isinstance(stage, NormStage) and stage.name == "inverse":
            return _normalised(value, stage)
    raise NotAChainError(_TWO_BRANCHES)


def _normalised(value: Value | None, stage: NormStage) -> Rows:
    centered = isinstance(value, NormStage) and value.name == "centered"
    given = value.rows if isinstance(value, NormStage) else value
    if not isinstance(given, Rows) or not _same(given, stage.rows) or centered != stage.centered:
        raise NotAChainError("it divides rows by the deviation of other ones")
    return given.then(Norm("layer" if centered else "rms", None, None, stage.eps))


def _stage(stage: NormStage, before: str, after: str) -> NormStage:
    if stage.name != before:
        raise NotAChainError("it is no step of a LayerNorm or an RMSNorm")
    return replace(stage, name=after)


def _same(one: Rows, two: Rows) -> bool:
    return len(one.ops) == len(two.ops) and is_prefix(one.ops, two.ops) and one.axes == two.axes


def product_of_rows(one: Rows, two: Rows) -> Rows:
    """X σ(x) and other activations that are a product of two branches."""
    if one is two or (_same(one, two) and one.source == two.source):
        raise NotAChainError("it squares rows, and is no part of an RMSNorm")
    short, long = (one, two) if len(one.ops) <= len(two.ops) else (two, one)
    name = PRODUCTS.get(_tail(short, long) or ())
    if name is not None:
        return short.then(Activate(name))
    return _gelu(short, long)


PRODUCTS: dict[tuple[str, ...], str] = {
    ("sigmoid",): "silu",
    ("softplus", "tanh"): "mish",
    ("hardsigmoid",): "hardswish",
}
"""Names of x·f(x) by the functions of f."""


def _tail(short: Rows, long: Rows) -> tuple[str, ...] | None:
    """Names of the activations that one branch has more than the other."""
    if short.source != long.source or not is_prefix(short.ops, long.ops):
        return None
    tail = long.ops[len(short.ops) :]
    if not all(isinstance(op, Activate) and not op.options for op in tail):
        return None
    return tuple(op.name for op in tail if isinstance(op, Activate))


def _gelu(short: Rows, long: Rows) -> Rows:
    """X (1 + erf(x/√2)), or the same of x/2, which are 2 gelu(x) and gelu(x)."""
    start = next(
        (
            n
            for n, pair in enumerate(zip(short.ops, long.ops, strict=False))
            if pair[0] is not pair[1]
        ),
        min(len(short.ops), len(long.ops)),
    )
    outer, inner = short.ops[start:], long.ops[start:]
    if not _is_erf(inner) or len(outer) > 1 or not all(isinstance(op, Scale) for op in outer):
        raise NotAChainError(_TWO_BRANCHES)
    base = replace(long.bound(), ops=long.ops[:start])
    found = base.then(Activate("gelu"))
    width = found.width
    if width is None:
        raise NotAChainError("the width of its rows is open")
    factor, shift = np.full(width, 2.0), np.zeros(width)
    for op in outer:
        assert isinstance(op, Scale)
        factor, shift = factor * op.factor, shift + op.shift
    if shift.any():
        raise NotAChainError(_TWO_BRANCHES)
    return found if bool((factor == 1).all()) else found.then(Scale(factor, shift))


def _is_erf(ops: tuple[Op, ...]) -> bool:
    """True for 1 + erf(x/√2)."""
    if len(ops) != 3:
        return False
    first, middle, last = ops
    return (
        isinstance(first, Scale)
        and np.allclose(first.factor, 1 / sqrt(2), rtol=1e-6)
        and not first.shift.any()
        and isinstance(middle, Activate)
        and middle.name == ERF
        and _is_one_more(last)
    )
