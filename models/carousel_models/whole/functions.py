"""Functions and operators as parts of a manifest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from carousel_models.row_modules import ACTIVATION_MODULES, norm_eps
from carousel_models.row_parts import OPTIONS
from carousel_models.spec import SelectArgmax, SelectTopK

from .calls import Call, Handler, Result
from .layers import (
    activation,
    affine,
    batch_norm,
    constant_of,
    embedded,
    linear,
    norm,
    one_hot,
    prelu,
)
from .recurrence import packed, padded
from .shaping import SHAPING, STREAM
from .values import Added, Rows, Selected, Transformed, Unknown

_SIGNS = {"add": "+", "sub": "-", "subtract": "-", "mul": "*", "multiply": "*", "div": "/",
          "true_divide": "/", "divide": "/", "truediv": "/"}  # fmt: skip


def arithmetic(call: Call) -> Result:
    """+ − × ÷ of rows and constants, and rows added to rows."""
    name = call.name.strip("_").removesuffix("_")
    swapped = name.startswith("r") and name[1:] in _SIGNS
    inplace = name.startswith("i") and name[1:] in _SIGNS
    sign = _SIGNS[name[1:] if swapped or inplace else name]
    left, right = call.args[0], call.get(1, "other")
    if swapped:
        left, right = right, left
    if call.kwargs.get("alpha", 1) != 1:
        return call.unknown("it has an alpha")
    if isinstance(left, Rows) and isinstance(right, Rows):
        return _both(call, left, right, sign)
    if isinstance(left, Rows):
        return _with_constant(call, left, right, sign)
    if not isinstance(right, Rows):
        return call.unknown("it needs rows")
    if sign == "/":
        return call.unknown("it divides by a row")
    if sign == "-":  # c − x = x·(−1) + c
        negative = affine(call, right, "*", torch.full((right.width,), -1.0))
        return _with_constant(call, negative, left, "+")
    return _with_constant(call, right, left, sign)


def _both(call: Call, left: Rows, right: Rows, sign: str) -> Result:
    if sign != "+":
        what = {"*": "multiplies two rows, as a gate", "-": "subtracts rows", "/": "divides rows"}
        return call.unknown(f"it {what[sign]}; a manifest adds the input of a layer to its output")
    if left.axes != right.axes or left.time != right.time:
        return call.unknown("it adds rows of different steps or shapes")
    one, two = left.expr, right.expr
    if one.width != two.width:
        return call.unknown("it adds rows of different widths")
    expr = call.expr(Added, one, one.width, two, other=two)
    return Rows(expr, left.axes, left.time)


def _with_constant(call: Call, rows: Rows, value: Any, sign: str) -> Result:
    tensor = constant_of(value)
    if tensor is None and not isinstance(value, int | float):
        return call.unknown("its operand is no constant")
    dtype = call.value.dtype
    tensor = torch.as_tensor(value, dtype=dtype) if tensor is None else tensor
    numbers = _per_feature(rows, tensor, tuple(call.value.shape))
    if numbers is None:
        return call.unknown(
            "its constant differs from step to step or from row to row, as a positional encoding does"
        )
    neutral = {"+": 0, "-": 0, "*": 1, "/": 1}[sign]
    return rows if bool((numbers == neutral).all()) else affine(call, rows, sign, numbers)


def _per_feature(rows: Rows, tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A constant as one number for each feature. None if it differs along another axis."""
    whole = tensor.expand(shape) if tensor.dim() <= len(shape) else tensor
    if whole.dim() != len(rows.axes):
        return None
    place = rows.at("F")
    if place is None:
        numbers = whole.reshape(-1)[:1].expand(rows.width)
        return numbers if rows.width == 1 and bool((whole == numbers[0]).all()) else None
    first = whole.movedim(place, -1).reshape(-1, rows.width)
    return first[0].contiguous() if bool((first == first[0]).all()) else None


def negated(call: Call) -> Result:
    """−x."""
    rows = call.args[0]
    return affine(call, rows, "*", torch.full((rows.width,), -1.0))


def clamped(call: Call) -> Result:
    """x.clamp(min, max)."""
    low, high = (constant_number(call.get(p, n)) for p, n in ((1, "min"), (2, "max")))
    if high is None and low == 0:
        return activation(call, call.args[0], "relu")
    if low is None or high is None or low >= high:
        return call.unknown("it has one bound; a manifest has two, or relu")
    return activation(call, call.args[0], "hardtanh", min_val=low, max_val=high)


def constant_number(value: Any) -> float | None:
    """A number. None for anything else."""
    return float(value) if isinstance(value, int | float) else None


def product(call: Call) -> Result:
    """X @ W."""
    rows, weight = call.args[0], constant_of(call.get(1, "other", call.kwargs.get("mat2")))
    if weight is None or weight.dim() != 2:
        return call.unknown("it multiplies rows with something other than a constant matrix")
    return linear(call, rows, weight.t(), None)


def added_product(call: Call) -> Result:
    """torch.addmm(b, x, W)."""
    bias, weight = constant_of(call.args[0]), constant_of(call.get(2, "mat2"))
    if bias is None or weight is None or bias.dim() > 1:
        return call.unknown("it adds or multiplies something other than constants")
    return linear(call, call.get(1, "mat1"), weight.t(), bias.expand(weight.shape[1]))


def functional_linear(call: Call) -> Result:
    """F.linear(x, W, b)."""
    weight, bias = constant_of(call.get(1, "weight")), constant_of(call.get(2, "bias"))
    if weight is None:
        return call.unknown("its weight depends on the input")
    return linear(call, call.args[0], weight, bias)


def functional_embedding(call: Call) -> Result:
    """F.embedding(x, W)."""
    tokens, table = call.get(0, "input"), constant_of(call.get(1, "weight"))
    if table is None:
        return call.unknown("its table depends on the input")
    return embedded(call, tokens, table)


def functional_norm(call: Call) -> Result:
    """F.layer_norm and F.rms_norm."""
    layer = call.name == "layer_norm"
    weight, bias = constant_of(call.get(2, "weight")), None
    bias = constant_of(call.get(3, "bias")) if layer else None
    eps = call.get(4, "eps", 1e-5) if layer else norm_eps(call.get(3, "eps"), call.value.dtype)
    shape = tuple(call.get(1, "normalized_shape"))
    return norm(call, call.args[0], "layer" if layer else "rms", shape, eps, weight, bias)


def functional_batch_norm(call: Call) -> Result:
    """F.batch_norm."""
    if call.get(5, "training", False):
        return call.unknown("it takes the statistics of a batch, whose rows are other clients'")
    mean, var, weight, bias = (
        constant_of(call.get(p, n))
        for p, n in ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias"))
    )
    return batch_norm(call, call.args[0], (mean, var), (weight, bias), call.get(7, "eps", 1e-5))


def functional_prelu(call: Call) -> Result:
    """F.prelu(x, weight)."""
    weight = constant_of(call.get(1, "weight"))
    return (
        call.unknown("its slopes are not constant")
        if weight is None
        else prelu(call, call.args[0], weight)
    )


def gelu(call: Call) -> Result:
    """F.gelu."""
    exact = call.get(1, "approximate", "none") == "none"
    return activation(call, call.args[0], "gelu" if exact else "gelu_tanh")


def dropped(call: Call) -> Result:
    """F.dropout in eval mode."""
    if call.get(2, "training", call.name == "dropout") and call.get(1, "p", 0.5):
        return call.unknown("it drops numbers in eval mode too; give training=self.training")
    found: Result = call.args[0]
    return found


def transformed(call: Call) -> Result:
    """Softmax and log_softmax over the row."""
    rows, module = call.args[0], call.node.meta.get("module")
    dim = call.get(1, "dim") if module is None else getattr(module, "dim", None)
    if not isinstance(rows, Rows) or dim is None or rows.at("F") != dim % len(rows.axes):
        axis = "" if dim is None or not isinstance(rows, Rows) else _axis(rows, dim)
        return call.unknown(f"it is {axis or 'not'} over the row; give dim=-1 for rows")
    name: Any = {"softmax": "softmax", "Softmax": "softmax"}.get(call.name, "log_softmax")
    expr = call.expr(Transformed, rows.expr, rows.width, name, transform=name)
    return Rows(expr, rows.axes, rows.time)


def _axis(rows: Rows, dim: int) -> str:
    names: dict[tuple[str, ...], str] = {
        ("T",): "over the steps and not",
        ("B",): "over the batch and not",
    }
    return names.get(rows.axes[dim % len(rows.axes)], "")


def chosen(call: Call) -> Result:
    """argmax, topk and max over the row."""
    rows = call.args[0]
    dim = call.get(2 if call.name == "topk" else 1, "dim", -1 if call.name == "topk" else None)
    if (
        not isinstance(rows, Rows)
        or not isinstance(dim, int)
        or rows.at("F") != dim % len(rows.axes)
    ):
        return call.unknown(f"it is not over the row, but over steps or all numbers; {STREAM}")
    row = rows.axes[: dim % len(rows.axes)] + rows.axes[dim % len(rows.axes) + 1 :]
    if call.get(2, "keepdim", False) and call.name != "topk":
        row = (*rows.axes[: dim % len(rows.axes)], (), *rows.axes[dim % len(rows.axes) + 1 :])
    if call.name == "topk":
        if not (call.get(3, "largest", True) and call.get(4, "sorted", True)):
            return call.unknown("it is not the largest numbers, sorted")
        select, row, fields = SelectTopK(k=int(call.get(1, "k"))), rows.axes, ("values", "indices")
        return tuple(_selected(call, rows, select, field, row, select.k) for field in fields)
    index = _selected(call, rows, SelectArgmax(), "index", row, 1)
    if call.name == "argmax":
        return index
    return call_unknown_values(call), index


def call_unknown_values(call: Call) -> Unknown:
    """The greatest numbers of max(dim): a selection has the index alone."""
    return call.unknown("a selection of one has its index and not its number; use topk(1)")


def _selected(call: Call, rows: Rows, select: Any, field: str, axes: Any, width: int) -> Rows:
    key = (select.model_dump_json(), field)
    expr = call.expr(Selected, rows.expr, width, *key, select=select, field=field)
    return Rows(expr, axes, rows.time)


def pooled(call: Call) -> Result:
    """Mean, sum and the like."""
    rows, dims = (
        call.args[0],
        call.rest(1, "dim") if len(call.args) > 1 else (call.kwargs.get("dim"),),
    )
    if isinstance(rows, Rows) and None not in dims:
        axes = [rows.axes[int(dim) % len(rows.axes)] for dim in dims if isinstance(dim, int)]
        if ("T",) in axes:
            return call.unknown(
                "it pools over the steps; keep what it needs (a sum and a count, a maximum) as a state of a "
                "custom module"
            )
    return call.unknown("it pools numbers; no part of a manifest does")


def _plain_activation(function: str) -> Handler:
    def handler(call: Call) -> Result:
        names = OPTIONS.get(function, {})
        given = {
            name: call.get(place, name, default)
            for place, (name, default) in enumerate(names.items(), start=1)
        }
        return activation(call, call.args[0], function, **given)

    return handler


_NAMES = {function: function for function in ACTIVATION_MODULES.values()} | {
    "log_sigmoid": "logsigmoid", "swish": "silu", "logsigmoid": "logsigmoid",
}  # fmt: skip

FUNCTIONS: dict[str, Handler] = {
    **SHAPING,
    **{name: _plain_activation(function) for name, function in _NAMES.items()},
    **{f"{name}_": _plain_activation(function) for name, function in _NAMES.items()},
    **dict.fromkeys(_SIGNS, arithmetic),
    **dict.fromkeys((f"{name}_" for name in _SIGNS), arithmetic),
    **dict.fromkeys(
        (f"__{prefix}{name}__" for prefix in ("", "r", "i") for name in _SIGNS), arithmetic
    ),
    "rsub": arithmetic,
    **dict.fromkeys(("neg", "negative", "__neg__"), negated),
    **dict.fromkeys(("clamp", "clip", "clamp_", "clip_"), clamped),
    **dict.fromkeys(("matmul", "mm", "__matmul__"), product),
    "addmm": added_product,
    "linear": functional_linear,
    "embedding": functional_embedding,
    "one_hot": one_hot,
    **dict.fromkeys(("layer_norm", "rms_norm"), functional_norm),
    "batch_norm": functional_batch_norm,
    "prelu": functional_prelu,
    "gelu": gelu,
    **dict.fromkeys(
        ("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_dropout",
         "feature_alpha_dropout", "dropout_", "dropout3d"),
        dropped,
    ),
    **dict.fromkeys(("softmax", "log_softmax"), transformed),
    **dict.fromkeys(("argmax", "topk", "max"), chosen),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "min", "std", "var", "cumsum", "cummax", "logsumexp",
         "adaptive_avg_pool1d", "adaptive_max_pool1d", "max_pool1d", "avg_pool1d"),
        pooled,
    ),
    "_pack_padded_sequence": packed,
    "_pad_packed_sequence": padded,
}  # fmt: skip
"""Functions, methods and operators by name."""

MODULES: dict[type[nn.Module], Handler] = {nn.Softmax: transformed, nn.LogSoftmax: transformed}
"""Modules that are functions."""
