"""Goes on behind an operation that a manifest cannot describe, so that a skeleton has all that follows it."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor

from carousel_models.joining_parts import ConcatPart, MultiplyPart
from carousel_models.stack_parts import StackPart

from .calls import Call, Result
from .values import Constant, Foreign, Rows, Unknown

_ELEMENTWISE = ("exp", "log", "log1p", "expm1", "abs", "sqrt", "rsqrt", "square", "sin", "cos", "sign",
                "erf", "reciprocal", "round", "floor", "exp2", "log2", "log10")  # fmt: skip
_JOINING: dict[str, type[StackPart]] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), ConcatPart),
    **dict.fromkeys(("mul", "multiply"), MultiplyPart),
}
_SIGNS = {"mul": "*", "sub": "-", "div": "/", "add": "+", "multiply": "*", "truediv": "/"}


def continued(call: Call, unknown: Unknown) -> Result:
    """Rows of a computation that has no part, if the result has the form of rows; else the unknown value."""
    rows = [value for value in _values(call) if isinstance(value, Rows)]
    result = call.value
    if isinstance(result, tuple | list) and result:
        first = continued(replace(call, result=result[0]), unknown)
        return (first, *(unknown for _ in result[1:])) if first is not unknown else unknown
    if not rows or not isinstance(result, Tensor) or not result.is_floating_point():
        return unknown
    axes, time = rows[0].axes, rows[0].time
    if axes == (("B",), ("T",), ("F",)) and list(result.shape[:-1]) == [call.sizes.batch]:
        axes, time = (("B",), ("F",)), call.sizes.steps - 1  # pooled over the steps
    elif rows[0].at("F") is None or not _same_rows(call, rows[0], result):
        return unknown
    inputs = tuple(value.expr for value in rows)
    code = _code(call, rows)
    width = int(result.shape[axes.index(("F",))])
    expr = call.expressions.of(
        ("Foreign", call.name, width, code, unknown.where, *inputs),
        lambda: Foreign(unknown.where, None, width, unknown.why, inputs, code, _joins(call, rows)),
    )
    return Rows(expr, axes, time)


def _values(call: Call) -> list[Any]:
    first = call.args[0] if call.args else ()
    parts = first if isinstance(first, tuple) else call.args
    return list(parts)


def _same_rows(call: Call, rows: Rows, result: Tensor) -> bool:
    """True if all axes but the row's are those of the input."""
    sizes = {"B": call.sizes.batch, "T": call.sizes.steps}
    if result.dim() != len(rows.axes):
        return False
    pairs = zip(rows.axes, result.shape, strict=True)
    return all(size == prod(sizes[n] for n in axis) for axis, size in pairs if axis != ("F",))


def _joins(call: Call, rows: list[Rows]) -> type[StackPart] | None:
    """The kind of part that joins these rows, if all values are rows of the same axes."""
    kind = _JOINING.get(call.name.strip("_"))
    if len(rows) < 2 or len(rows) < len(_values(call)) or len({row.axes for row in rows}) > 1:
        return None
    same = len({row.width for row in rows}) == 1
    return kind if same or kind is ConcatPart else None


def _code(call: Call, rows: list[Rows]) -> str:
    """The computation for rows [B, F], where it is known."""
    name = call.name.strip("_")
    places = ", ".join(f"{{{number}}}" for number in range(len(rows)))
    widths = {row.axes for row in rows}
    if name in ("cat", "concat", "concatenate") and len(widths) == 1:
        return f"torch.cat(({places}), dim=-1)"
    if name in _SIGNS and len(rows) == 2 and len(widths) == 1:
        return f"{{0}} {_SIGNS[name]} {{1}}"
    if name in _ELEMENTWISE and len(rows) == 1:
        return f"torch.{name}({{0}})"
    if name in ("pow", "clamp", "clip") and not any(isinstance(v, Constant) for v in call.args):
        given = [repr(value) for value in call.args[1:]]
        given += [f"{key}={value!r}" for key, value in call.kwargs.items()]
        return f"torch.{name}({{0}}, {', '.join(given)})"
    return ""
