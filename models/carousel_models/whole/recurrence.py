"""Recurrent modules and cells: rows from the rows of all steps so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from carousel_models.cells import RecurrentLayers

from .calls import Call, Result
from .values import Constant, Ends, Memory, Packed, Recurrent, Rows, Unknown

CELL_MODULES = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def recurrent(call: Call) -> Result:
    """A recurrent module: (rows, states after the last step)."""
    module: Any = call.module
    given, is_packed = _unpacked(call.args[0])
    if not isinstance(given, Rows):
        return call.unknown("it needs rows")
    problem = None if is_packed else _layout_problem(module, given)
    if problem is not None:
        return call.unknown(problem)
    directions = 2 if module.bidirectional else 1
    own = isinstance(module, RecurrentLayers)
    width = module.spec.width if own else (module.proj_size or module.hidden_size) * directions
    expr = _recurrent(call, given, width)
    if isinstance(expr, Unknown):
        return expr
    time = call.sizes.steps - 1 if given.time is None else given.time
    layers = module.num_layers * directions
    h = Rows(expr, ((), ("B",), ("F",)), time) if layers == 1 else Ends(expr, time, layers)
    states: Any = (h, Memory(expr, time)) if isinstance(module, nn.LSTM) else h
    if own:
        last = call.value[1]
        memory = Memory(expr, time)
        states = tuple(memory for _ in last) if isinstance(last, tuple) else memory
    rows = Rows(expr, given.axes, given.time)
    return ((Packed(rows), *constants(call.value[0][1:])) if is_packed else rows), states


def cell(call: Call) -> Result:
    """A cell: h, or (h, c) of an LSTMCell."""
    module: Any = call.module
    given = call.args[0]
    if not isinstance(given, Rows) or given.time is None or given.axes != (("B",), ("F",)):
        return call.unknown("a cell needs the row of one step, [batch, features]")
    expr = _recurrent(call, given, module.hidden_size)
    if isinstance(expr, Unknown):
        return expr
    h = Rows(expr, (("B",), ("F",)), given.time)
    return (h, Memory(expr, given.time)) if isinstance(module, nn.LSTMCell) else h


def _recurrent(call: Call, given: Rows, width: int) -> Recurrent | Unknown:
    """The expression of the first step, or of a later one that has the state of the one before."""
    module = call.module
    first = ("first", id(given.expr), id(module))
    hx = call.get(1, "hx", call.kwargs.get("state"))
    parts = hx if isinstance(hx, tuple | list) else (hx,)
    own: Any = call.expressions.made.get(first)
    if given.time in (None, 0):
        initial = _initial(call, parts)
        if isinstance(initial, Unknown):
            return initial
        key = (module, *initial)
        own = call.expr(Recurrent, given.expr, width, *key, module=module, initial=initial)
        call.expressions.made[first] = own
    elif own is None or not all(_is_of(part, own, given.time - 1) for part in parts):
        return call.unknown(_NOT_ITS_OWN)
    found: Recurrent = own
    return found


_NOT_ITS_OWN = (
    "it begins with a state that is not its own of the step before, as a decoder does; in a package, each "
    "layer has a state of its own"
)


def _is_of(state: Any, expr: Recurrent, time: int) -> bool:
    return isinstance(state, Rows | Ends | Memory) and (state.expr, state.time) == (expr, time)


def _unpacked(value: Any) -> tuple[Any, bool]:
    """Rows, and whether they were packed. A PackedSequence is recorded as the tuple of its fields."""
    if isinstance(value, tuple) and value and isinstance(value[0], Packed):
        return value[0].rows, True
    if isinstance(value, Packed):
        return value.rows, True
    return value, False


def _layout_problem(module: Any, given: Rows) -> str | None:
    step: tuple[str, ...] = () if given.time is not None else ("T",)
    wanted = (("B",), step, ("F",)) if module.batch_first else (step, ("B",), ("F",))
    if given.axes == wanted:
        return None
    names = {("B",): "batch", ("T",): "steps", ("F",): "features", (): "1"}
    found = ", ".join(names.get(axis, "joined axes") for axis in given.axes)
    return (
        f"with batch_first={module.batch_first} it would read [{found}] wrongly; correct batch_first or "
        "the transpose before it"
    )


def _initial(call: Call, parts: Sequence[Any]) -> tuple[Tensor, ...] | Unknown:
    """State before the first step: () for zeros, else constants without the batch."""
    if all(part is None for part in parts):
        return ()
    if any(isinstance(part, Rows | Ends | Memory) for part in parts):
        return call.unknown(_NOT_ITS_OWN)
    if not all(isinstance(part, Constant) for part in parts):
        return call.unknown("it begins with a state that is computed from the input")
    tensors = [part.tensor for part in parts]
    if not any(bool(tensor.any()) for tensor in tensors):
        return ()
    dim = tensors[0].dim() - 2
    if any(not torch.equal(t, t.narrow(dim, 0, 1).expand_as(t)) for t in tensors):
        return call.unknown(
            "it begins with a state that differs between the rows of a batch, as torch.randn gives; begin "
            "with zeros or a parameter"
        )
    return tuple(tensor.select(dim, 0) for tensor in tensors)


def constants(parts: Sequence[Any]) -> tuple[Any, ...]:
    """Fields of a packed sequence beside its data."""
    return tuple(Constant(part) if isinstance(part, Tensor) else part for part in parts)


def packed(call: Call) -> Result:
    """pack_padded_sequence: all sequences have all steps in this run."""
    rows = call.args[0]
    first = bool(call.get(2, "batch_first", False))
    wanted = ("B",), ("T",)
    if not isinstance(rows, Rows) or rows.axes[:2] != (wanted if first else wanted[::-1]):
        return call.unknown(f"with batch_first={first} it would pack these axes wrongly")
    return Packed(rows), Constant(call.value[1])


def padded(call: Call) -> Result:
    """pad_packed_sequence."""
    value = call.args[0]
    if not isinstance(value, Packed):
        return call.unknown("it needs the rows of a packed sequence")
    first = bool(call.get(2, "batch_first", False))
    axes = (("B",), ("T",), ("F",)) if first else (("T",), ("B",), ("F",))
    return Rows(value.rows.expr, axes), Constant(call.value[1])
