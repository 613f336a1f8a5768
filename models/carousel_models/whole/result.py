"""The output of a module among its results, and the tensors of it with sequences first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from carousel_models.row_parts import ActivationPart
from carousel_models.spec import Output, SelectFull

from .calls import Sizes
from .chains import MisfitError
from .values import Computed, Expr, Rows, Selected, Transformed, Unknown


def ended(expr: Expr) -> tuple[Expr, Output]:
    """The rows before transform and selection, and these."""
    select: Any = SelectFull()
    transform: Any = "identity"
    if isinstance(expr, Selected):
        select, expr = expr.select, _before(expr)
    if isinstance(expr, Transformed):
        transform, expr = expr.transform, _before(expr)
    elif isinstance(expr, Computed) and expr.part == ActivationPart(function="sigmoid"):
        expr, transform = _before(expr), "sigmoid"
    return expr, Output(transform=transform, select=select)


def _before(expr: Expr) -> Expr:
    assert expr.x is not None
    return expr.x


def outputs_of(read: Any) -> list[Rows]:
    """The rows that a module returns: one, or the fields of one selection.

    Raises:
        MisfitError: it returns no rows, or rows of several kinds.
    """
    if isinstance(read, Unknown):
        raise MisfitError(read.where, read.why)
    if isinstance(read, Rows):
        return [read]
    if isinstance(read, Mapping):
        return _of_mapping(read)
    if isinstance(read, tuple | list) and read:
        first = outputs_of(read[0])
        second = read[1] if len(read) > 1 else None
        if isinstance(first[0].expr, Selected) and isinstance(second, Rows):
            return [*first, second] if _same_selection(first[0].expr, second.expr) else first
        return first
    raise MisfitError(
        "the module's result",
        f"it is a {type(read).__name__} and no tensor of rows; give the rows first",
    )


def _of_mapping(read: Mapping[str, Any]) -> list[Rows]:
    found = {name: value for name, value in read.items() if isinstance(value, Rows)}
    if len(found) == 1:
        return list(found.values())
    unknown = next((value for value in read.values() if isinstance(value, Unknown)), None)
    if not found and unknown is not None:
        raise MisfitError(unknown.where, unknown.why)
    names = ", ".join(map(str, read))
    raise MisfitError(
        "the module's result",
        f"it is a dict of {names}, of which {len(found)} are rows; a package has one output: wrap the module "
        "in one that returns it",
    )


def _same_selection(one: Selected, two: Expr) -> bool:
    return isinstance(two, Selected) and one.x is two.x and one.select == two.select


def picked(result: Any, read: Any) -> list[Tensor]:
    """The tensors of `outputs_of`, of a real result of the same form."""
    if isinstance(read, Rows):
        return [result]
    if isinstance(read, Mapping):
        return [result[name] for name, value in read.items() if isinstance(value, Rows)][:1]
    first = picked(result[0], read[0])
    return [*first, result[1]] if len(outputs_of(read)) == 2 else first


def in_order(tensor: Tensor, rows: Rows, sizes: Sizes) -> Tensor:
    """A tensor of rows as [B, T, W], or [B, W] if it has one step."""
    tensor = tensor.detach().cpu()
    names = [name for axis in rows.axes for name in axis]
    lengths = {"B": sizes.batch, "T": sizes.steps, "F": rows.width}
    tensor = tensor.reshape([lengths[name] for name in names])
    if "F" not in names:
        tensor, names = tensor[..., None], [*names, "F"]
    order = [names.index(name) for name in "BTF" if name in names]
    tensor = tensor.permute(order)
    return tensor.double() if tensor.dtype == torch.float64 else tensor
