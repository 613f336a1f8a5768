"""Operations on single rows: products, sums, and what ends a model. No torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from carousel_models.importing.ops import Activate, Array, Linear, Norm, Op, Scale, Skip, ToOutput
from carousel_models.spec import SelectArgmax, SelectTopK

from . import fusing
from .graph import Node
from .reading import Call, Reading, meant, rows_of, whole_numbers
from .values import Const, NormStage, NotAChainError, Rows, Value, is_prefix


def matmul(call: Call) -> list[Value]:
    """X W with a constant W [in, out]."""
    rows, weight = call.values
    if not isinstance(weight, Const) or weight.array.ndim != 2:
        raise NotAChainError("it is no product of rows with one constant matrix")
    return [_linear(rows_of(rows), weight.array.T, None, call.reading)]


def gemm(call: Call) -> list[Value]:
    """α A B + β C with constant B and C."""
    rows, weight, *more = call.values
    bias = more[0] if more else None
    if not isinstance(weight, Const) or call.node.attribute("transA", 0):
        raise NotAChainError("it is no product of rows with one constant matrix")
    if bias is not None and not isinstance(bias, Const):
        raise NotAChainError("it adds numbers that are not constant")
    matrix = weight.array if call.node.attribute("transB", 0) else weight.array.T
    alpha, beta = call.node.attribute("alpha", 1.0), call.node.attribute("beta", 1.0)
    matrix = matrix if alpha == 1 else matrix * np.float64(alpha)
    vector = None if bias is None else _vector(bias.array, len(matrix))
    vector = vector if vector is None or beta == 1 else vector * np.float64(beta)
    return [_linear(rows_of(rows), matrix, vector, call.reading)]


def _linear(rows: Rows, weight: Array, bias: Array | None, reading: Reading) -> Rows:
    width = rows.bound().width
    if width is not None and width != weight.shape[1]:
        raise NotAChainError(f"its matrix takes rows of {weight.shape[1]}, and these have {width}")
    return rows.then(Linear(weight, bias), reading.atom("row", len(weight)))


def _vector(array: Array, width: int | None) -> Array:
    """A constant for each number of a row, of one that ONNX would repeat.

    Raises:
        NotAChainError: it has others for each step or sequence.
    """
    if array.size == 1 and width is not None:
        return np.full(width, np.ravel(array)[0])
    if array.size != array.shape[-1] or width not in (None, array.size):
        raise NotAChainError(
            f"it computes with an array {list(array.shape)}, which is not one number for each of a row"
        )
    return np.ravel(array)


def _scaled(rows: Rows, factor: Array | None, shift: Array | None) -> Rows:
    """Factor∘x + shift, as a part of the operation before where that has the place for it."""
    rows = rows.bound()
    last = rows.ops[-1] if rows.ops else None
    joined: Op | None = None
    if isinstance(last, Linear) and last.bias is None and factor is None and shift is not None:
        joined = replace(last, bias=shift)
    elif isinstance(last, Norm) and last.bias is None:
        if (
            factor is None
            and last.weight is not None
            and shift is not None
            and last.kind == "layer"
        ):
            joined = replace(last, bias=shift)
        elif last.weight is None and shift is None:
            joined = replace(last, weight=factor)
    if joined is not None:
        return rows.with_ops((*rows.ops[:-1], joined), rows.below)
    given = factor if factor is not None else shift
    assert given is not None
    ones, zeros = np.ones(len(given)), np.zeros(len(given))
    scale = Scale(ones if factor is None else factor, zeros if shift is None else shift)
    if isinstance(last, Scale):
        before = last.factor.astype(np.float64)
        scale = Scale(before * scale.factor, last.shift * scale.factor + scale.shift)
        neutral = bool((scale.factor == 1).all() and (scale.shift == 0).all())
        ops = rows.ops[:-1] if neutral else (*rows.ops[:-1], scale)
        return rows.with_ops(ops, rows.below)
    if bool((scale.factor == 1).all() and (scale.shift == 0).all()):
        return rows
    return rows.then(scale)


def add(call: Call) -> list[Value]:
    """A bias, a shift, or a residual."""
    one, two = call.values
    if isinstance(one, Const):
        one, two = two, one
    if isinstance(two, Const):
        if isinstance(one, NormStage):
            return [fusing.with_eps(one, two)]
        rows = rows_of(one).bound()
        return [_scaled(rows, None, _vector(two.array, rows.width))]
    return [_residual(rows_of(one), rows_of(two))]


def _residual(one: Rows, two: Rows) -> Rows:
    short, long = (one, two) if len(one.ops) <= len(two.ops) else (two, one)
    short, long = short.bound(), long.bound()
    if (
        not is_prefix(short.ops, long.ops)
        or len(short.ops) == len(long.ops)
        or short.source != long.source
        or (short.steps, short.turned) != (long.steps, long.turned)
    ):
        raise NotAChainError("it adds rows of two branches, and a chain has residuals alone")
    if short.width is not None and short.width != long.width:
        raise NotAChainError(f"it adds rows of {short.width} to rows of {long.width}")
    if [g for g in short.axes if g != short.row] != [g for g in long.axes if g != long.row]:
        raise NotAChainError("it adds rows whose axes are in another order")
    start = len(short.ops)
    return long.with_ops((*long.ops[:start], Skip(long.ops[start:])))


def sub(call: Call) -> list[Value]:
    """A shift, or a stage of a norm."""
    one, two = call.values
    if isinstance(two, NormStage | Rows) and isinstance(one, Rows):
        return [fusing.difference(one, two)]
    if isinstance(two, Const):
        rows = rows_of(one).bound()
        return [_scaled(rows, None, 0.0 - _vector(two.array, rows.width))]
    if isinstance(one, Const):
        rows = rows_of(two).bound()
        shift = _vector(one.array, rows.width)
        return [_scaled(rows, np.full(len(shift), -1.0), shift)]
    raise NotAChainError("it subtracts rows of two branches")


def mul(call: Call) -> list[Value]:
    """A factor, or two branches that are one activation or a norm."""
    one, two = call.values
    if isinstance(one, Const):
        one, two = two, one
    if isinstance(two, Const):
        rows = rows_of(one).bound()
        return [_scaled(rows, _vector(two.array, rows.width), None)]
    if isinstance(one, NormStage) or isinstance(two, NormStage):
        return [fusing.product(one, two)]
    return [fusing.product_of_rows(rows_of(one), rows_of(two))]


def div(call: Call) -> list[Value]:
    """A factor, or the end of a norm."""
    one, two = call.values
    if isinstance(two, Const):
        rows = rows_of(one).bound()
        return [_scaled(rows, 1 / _vector(two.array, rows.width).astype(np.float64), None)]
    if isinstance(two, NormStage):
        return [fusing.quotient(one, two)]
    return [fusing.softsign(rows_of(one), rows_of(two))]


def negate(call: Call) -> list[Value]:
    """−x."""
    rows = rows_of(call.values[0]).bound()
    if rows.width is None:
        raise NotAChainError("the width of its rows is open")
    return [_scaled(rows, np.full(rows.width, -1.0), None)]


def batch_norm(call: Call) -> list[Value]:
    """γ (x − mean) / √(variance + ε) + β along the second axis, with the running statistics."""
    rows, *arrays = call.values
    if call.node.attribute("training_mode", 0) or not all(isinstance(a, Const) for a in arrays):
        raise NotAChainError(
            "it computes its statistics in the graph; export the model in eval mode"
        )
    gamma, beta, mean, variance = (
        a.array.astype(np.float64) for a in arrays if isinstance(a, Const)
    )
    factor = gamma / np.sqrt(variance + call.node.attribute("epsilon", 1e-5))
    return [rows_of(rows).then(Scale(factor, beta - mean * factor), axis=1)]


def layer_norm(call: Call) -> list[Value]:
    """A LayerNormalization or an RMSNormalization over the row."""
    rows = rows_of(call.values[0]).bound()
    if call.node.attribute("axis", -1) not in (-1, len(rows.axes) - 1):
        raise NotAChainError("it normalises more axes than that of the rows")
    arrays = []
    for value in call.values[1:]:
        if value is not None and not isinstance(value, Const):
            raise NotAChainError("its weights are not constant")
        arrays.append(None if value is None else _vector(value.array, rows.width))
    weight, bias = (*arrays, None, None)[:2]
    kind = "layer" if call.node.op == "LayerNormalization" else "rms"
    return [rows.then(Norm(kind, weight, bias, meant(call.node.attribute("epsilon", 1e-5))))]


def to_output(call: Call) -> list[Value]:
    """A Softmax or LogSoftmax over the row."""
    rows = rows_of(call.values[0]).bound()
    default = -1 if call.reading.opset >= 13 else 1
    if call.node.attribute("axis", default) not in (-1, len(rows.axes) - 1):
        raise NotAChainError("it works along another axis than that of the rows")
    return [rows.then(ToOutput(TRANSFORMS[call.node.op]))]


TRANSFORMS = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}


def logarithm(call: Call) -> list[Value]:
    """The logarithm of a softmax or a sigmoid, which older exporters write so."""
    rows = rows_of(call.values[0])
    last = rows.ops[-1] if rows.ops else None
    if isinstance(last, ToOutput) and last.name == "softmax":
        return [rows.with_ops((*rows.ops[:-1], ToOutput("log_softmax")), rows.below)]
    if isinstance(last, Activate) and last.name == "sigmoid":
        return [rows.with_ops((*rows.ops[:-1], Activate("logsigmoid")), rows.below)]
    raise NotAChainError("it is the logarithm of rows that are no probabilities")


def arg_max(call: Call) -> list[Value]:
    """The place of the largest."""
    rows = _whole_rows(call.node, call.values[0], 0)
    if call.node.attribute("select_last_index", 0):
        raise NotAChainError("it takes the last of equal places, and Carousel the first")
    axes = rows.axes if call.node.attribute("keepdims", 1) else rows.axes[:-1]
    axes = tuple(() if g == rows.row else g for g in axes)
    return [replace(rows, axes=axes, select=SelectArgmax(), below=rows)]


def top_k(call: Call) -> list[Value]:
    """The k largest, largest first."""
    rows = _whole_rows(call.node, call.values[0], -1)
    given = (
        whole_numbers(call.values[1], "number")
        if len(call.values) > 1
        else [call.node.attribute("k", 0)]
    )
    if not call.node.attribute("largest", 1) or not call.node.attribute("sorted", 1):
        raise NotAChainError("it takes the smallest, or no order")
    found = replace(rows, select=SelectTopK(k=given[0]), below=rows)
    return [found, found]


def _whole_rows(node: Node, value: Value | None, axis: int) -> Rows:
    rows = rows_of(value).bound()
    if node.attribute("axis", axis) not in (-1, len(rows.axes) - 1):
        raise NotAChainError("it selects along another axis than that of the rows")
    return rows
