"""Layers of torch and their functions as parts of a manifest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from carousel_models.from_torch import looked_up
from carousel_models.row_modules import ACTIVATION_MODULES, described, norm_eps
from carousel_models.row_parts import OPTIONS, ActivationPart, LinearPart, NormPart, PReluPart

from .calls import Call, Handler, Result
from .values import Affine, Computed, Constant, Embedded, Rows, Source, Unknown

NO_ROWS = "it needs rows whose last dimension is the features"


def last_is_row(value: object) -> bool:
    """True for rows whose last dimension is the row."""
    return isinstance(value, Rows) and value.axes[-1:] == (("F",),)


def computed(
    call: Call, rows: Rows, part: Any, tensors: dict[str, Tensor], width: int | None = None
) -> Rows:
    """Rows behind a part."""
    width = rows.width if width is None else width
    key = (part.model_dump_json(), *tensors, *tensors.values())
    expr = call.expr(Computed, rows.expr, width, *key, part=part, tensors=tensors)
    return Rows(expr, rows.axes, rows.time)


def linear(call: Call, rows: Any, weight: Tensor, bias: Tensor | None) -> Result:
    """W x + b."""
    if not last_is_row(rows):
        return call.unknown(NO_ROWS)
    part = LinearPart(width=len(weight), bias=bias is not None)
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return computed(call, rows, part, tensors, len(weight))


def affine(call: Call, rows: Rows, sign: str, numbers: Tensor) -> Rows:
    """One number for each number of a row."""
    expr = call.expr(Affine, rows.expr, rows.width, sign, numbers, sign=sign, constant=numbers)
    return Rows(expr, rows.axes, rows.time)


def activation(call: Call, rows: Any, function: Any, **options: float) -> Result:
    """An activation, with the options that are not torch's defaults."""
    if not isinstance(rows, Rows):
        return call.unknown("it needs rows")
    defaults = OPTIONS.get(function, {})
    changed = {n: float(v) for n, v in options.items() if defaults[n] != v}
    return computed(call, rows, ActivationPart(function=function, options=changed), {})


def embedded(call: Call, tokens: Any, table: Tensor) -> Result:
    """Rows of a table by tokens."""
    if not isinstance(tokens, Rows) or not isinstance(tokens.expr, Source) or tokens.width:
        return call.unknown("it looks up something other than the input tokens")
    expr = call.expr(Embedded, tokens.expr, table.shape[1], table, table=table)
    return Rows(expr, (*tokens.axes, ("F",)), tokens.time)


def norm(
    call: Call,
    rows: Any,
    kind: Any,
    shape: tuple[int, ...],
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Result:
    """LayerNorm or RMSNorm over the row."""
    if not last_is_row(rows):
        return call.unknown(NO_ROWS)
    if tuple(shape) != (rows.width,):
        return call.unknown(f"it normalises over {list(shape)}; a part normalises one row")
    given = {"weight": weight, "bias": bias}
    tensors = {name: value for name, value in given.items() if value is not None}
    part = NormPart(norm=kind, eps=eps, weight="weight" in tensors, bias="bias" in tensors)
    return computed(call, rows, part, tensors)


def batch_norm(
    call: Call,
    rows: Any,
    statistics: tuple[Tensor | None, Tensor | None],
    parameters: tuple[Tensor | None, Tensor | None],
    eps: float,
) -> Result:
    """BatchNorm with its running statistics: (x − mean) / √(var + eps)·γ + β. The channels are axis 1."""
    mean, variance = statistics
    if mean is None or variance is None:
        return call.unknown("it has no running statistics, and a batch has rows of other clients")
    if not isinstance(rows, Rows) or len(rows.axes) < 2 or rows.axes[1] != ("F",):
        return call.unknown("its channels (dimension 1) are not the features of a row")
    signs = {"-": mean, "/": (variance.double() + eps).sqrt().to(variance.dtype)}
    signs |= {s: v for s, v in zip("*+", parameters, strict=True) if v is not None}
    found: Rows = rows
    for sign, numbers in signs.items():
        found = affine(call, found, sign, numbers)
    return found


def one_hot(call: Call) -> Result:
    """Tokens as rows with a single 1."""
    count = call.get(1, "num_classes", -1)
    if not isinstance(count, int) or count < 1:
        return call.unknown("num_classes follows from the tokens of a batch; give a number")
    return embedded(call, call.args[0], torch.eye(count))


def _linear_module(call: Call) -> Result:
    module: Any = call.module
    return linear(call, call.args[0], module.weight, module.bias)


def _convolution(call: Call) -> Result:
    module: Any = call.module
    rows = call.args[0]
    if module.kernel_size != (1,) or module.groups != 1 or module.padding not in (0, (0,)):
        return call.unknown(
            "it reads several steps at once; keep the last ones as a state of a custom module"
        )
    if not isinstance(rows, Rows) or len(rows.axes) < 2 or rows.axes[1] != ("F",):
        return call.unknown("its channels (dimension 1) are not the features of a row")
    weight = module.weight[:, :, 0]
    part = LinearPart(width=len(weight), bias=module.bias is not None)
    tensors = {"weight": weight} | ({} if module.bias is None else {"bias": module.bias})
    return computed(call, rows, part, tensors, len(weight))


def _embedding_module(call: Call) -> Result:
    assert isinstance(call.module, nn.Embedding)
    return embedded(call, call.args[0], looked_up(call.module))


def _norm_module(call: Call) -> Result:
    m: Any = call.module
    kind = "layer" if isinstance(m, nn.LayerNorm) else "rms"
    eps, bias = norm_eps(m.eps, call.value.dtype), getattr(m, "bias", None)
    return norm(call, call.args[0], kind, m.normalized_shape, eps, m.weight, bias)


def _batch_norm_module(call: Call) -> Result:
    m: Any = call.module
    return batch_norm(
        call, call.args[0], (m.running_mean, m.running_var), (m.weight, m.bias), m.eps
    )


def _prelu_module(call: Call) -> Result:
    return prelu(call, call.args[0], call.module.weight)  # type: ignore[arg-type]


def prelu(call: Call, rows: Any, weight: Tensor) -> Result:
    """PReLU, whose slopes are of axis 1."""
    if not isinstance(rows, Rows) or (len(weight) > 1 and rows.axes[1:2] != (("F",),)):
        return call.unknown("its slopes (dimension 1) are not those of the features of a row")
    return computed(call, rows, PReluPart(slopes=len(weight)), {"weight": weight})


def _activation_module(call: Call) -> Result:
    function, options = described(call.module) or ("", {})
    return activation(call, call.args[0], function, **options)


LAYERS: dict[type[nn.Module], Handler] = {
    nn.Linear: _linear_module,
    nn.Conv1d: _convolution,
    nn.Embedding: _embedding_module,
    nn.LayerNorm: _norm_module,
    nn.RMSNorm: _norm_module,
    nn.BatchNorm1d: _batch_norm_module,
    nn.PReLU: _prelu_module,
    **dict.fromkeys((*ACTIVATION_MODULES, nn.GELU, nn.RReLU), _activation_module),
}
"""Layers by their class."""


def constant_of(value: Any) -> Tensor | None:
    """The tensor of a constant."""
    return value.tensor if isinstance(value, Constant) else None


def unknown_in(*values: Any) -> Unknown | None:
    """The first unknown value."""
    return next((value for value in values if isinstance(value, Unknown)), None)
