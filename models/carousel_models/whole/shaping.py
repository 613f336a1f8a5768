"""Operations that change the shape of rows, or pick a step of them."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from .calls import Call, Handler, Result
from .values import Axes, Constant, Ends, Filling, Packed, Rows, Unknown

STREAM = "a stream has one step at a time"


def same(call: Call) -> Result:
    """The value itself."""
    found: Result = call.args[0]
    return found


def permuted(call: Call) -> Result:
    """Axes in another order."""
    rows = call.args[0]
    if not isinstance(rows, Rows):
        return call.unknown("of this value, it has no place in a manifest")
    count = len(rows.axes)
    match call.name:
        case "permute":
            order = [int(dim) % count for dim in call.rest(1, "dims")]
        case "transpose" | "swapaxes" | "swapdims" | "transpose_":
            one, two = (int(call.get(p, n)) % count for p, n in ((1, "dim0"), (2, "dim1")))
            order = list(range(count))
            order[one], order[two] = two, one
        case "movedim" | "moveaxis":
            source, to = int(call.get(1, "source")) % count, int(call.get(2, "destination")) % count
            order = [dim for dim in range(count) if dim != source]
            order.insert(to, source)
        case _:  # t, T and mT
            order = [*range(count - 2), count - 1, count - 2][-count:]
    return replace(rows, axes=tuple(rows.axes[dim] for dim in order))


def unsqueezed(call: Call) -> Result:
    """One more axis of size 1."""
    rows, dim = call.args[0], int(call.get(1, "dim"))
    if not isinstance(rows, Rows):
        return call.unknown("of this value, it has no place in a manifest")
    axes = list(rows.axes)
    axes.insert(dim % (len(axes) + 1), ())
    return replace(rows, axes=tuple(axes))


def squeezed(call: Call) -> Result:
    """Fewer axes of size 1."""
    rows = call.args[0]
    if isinstance(rows, Ends):
        return call.unknown(_ENDS)
    if not isinstance(rows, Rows):
        return call.unknown("of this value, it has no place in a manifest")
    given = call.rest(1, "dim")
    dims = {int(dim) % len(rows.axes) for dim in given} if given else set(range(len(rows.axes)))
    kept: list[tuple[str, ...]] = []
    time = rows.time
    for dim, axis in enumerate(rows.axes):
        size = prod(call.size_of(name, rows) for name in axis)
        if dim not in dims or size != 1:
            kept.append(axis)
        elif "B" in axis:
            return call.unknown("it removes the batch; give the dimension, as squeeze(-1)")
        elif "T" in axis:
            time = 0
    return Rows(rows.expr, tuple(kept), time)


def reshaped(call: Call) -> Result:
    """Axes joined, or taken apart again."""
    rows = call.args[0]
    if not isinstance(rows, Rows):
        return call.unknown(_ENDS if isinstance(rows, Ends) else "it needs rows")
    axes = _regrouped(call, rows, tuple(call.value.shape))
    if axes is None:
        return call.unknown(
            f"it splits or mixes rows (from {list(_shape(call, rows))} to {list(call.value.shape)})"
        )
    return replace(rows, axes=axes)


def _shape(call: Call, rows: Rows) -> tuple[int, ...]:
    return tuple(prod(call.size_of(name, rows) for name in axis) for axis in rows.axes)


def _regrouped(call: Call, rows: Rows, shape: tuple[int, ...]) -> Axes | None:
    """The axes for a shape, each the product of whole axes that follow each other."""
    named = [name for axis in rows.axes for name in axis]
    atoms = [name for name in named if call.size_of(name, rows) != 1]
    axes: list[tuple[str, ...]] = []
    for size in shape:
        group: list[str] = []
        while atoms and prod(call.size_of(name, rows) for name in group) < size:
            group.append(atoms.pop(0))
        if prod(call.size_of(name, rows) for name in group) != size:
            return None
        axes.append(tuple(group))
    if atoms:
        return None
    for name in (name for name in named if call.size_of(name, rows) == 1):
        free = [place for place, axis in enumerate(axes) if axis == ()]
        if free:
            axes[free[-1] if name == "F" else free[0]] = (name,)
    return tuple(axes)


def indexed(call: Call) -> Result:
    """x[…]: a step, all steps, or another axis."""
    value, index = call.args[0], call.args[1]
    index = index if isinstance(index, tuple) else (index,)
    if isinstance(value, tuple):
        found: Result = value[call.args[1]]
        return found
    if isinstance(value, Packed):
        return value
    if isinstance(value, Ends):
        return _end(call, value, index)
    if not isinstance(value, Rows):
        return call.unknown("of this value, it has no place in a manifest")
    return _picked(call, value, index)


def _end(call: Call, ends: Ends, index: tuple[Any, ...]) -> Result:
    """H of one layer after a step."""
    whole = all(part == slice(None) or part is Ellipsis for part in index[1:])
    if not whole or not isinstance(index[0], int):
        return call.unknown(_ENDS)
    layers = ends.count
    if getattr(ends.expr.module, "bidirectional", False) or index[0] % layers != layers - 1:
        return call.unknown(_ENDS)
    return Rows(ends.expr, (("B",), ("F",)), ends.time)


_ENDS = (
    "it is the state of a layer that is not the last one, or that reads backwards; a package has rows of the "
    "last layer"
)


def _picked(call: Call, rows: Rows, index: tuple[Any, ...]) -> Result:
    if Ellipsis in [part for part in index if not isinstance(part, Constant | Rows)]:
        place = next(n for n, part in enumerate(index) if part is Ellipsis)
        given = len([part for part in index if part is not None]) - 1
        fill = (slice(None),) * (len(rows.axes) - given)
        index = (*index[:place], *fill, *index[place + 1 :])
    last = _last_of_each(call, rows, index)
    if last is not None:
        return last
    axes: list[tuple[str, ...]] = []
    time, left = rows.time, list(rows.axes)
    for part in index:
        if part is None:
            axes.append(())
            continue
        axis = left.pop(0)
        step = _step_of(call, rows, axis, part)
        if isinstance(step, Unknown):
            return step
        if step is not None:
            time = step
        if isinstance(part, slice):
            axes.append(() if step is not None else axis)
    return Rows(rows.expr, (*axes, *left), time)


def _step_of(call: Call, rows: Rows, axis: tuple[str, ...], part: Any) -> int | Unknown | None:
    """The step that an index picks from the axis T. None if it leaves an axis as it is."""
    size = prod(call.size_of(name, rows) for name in axis)
    if isinstance(part, slice) and _plain(part) and range(size)[part] == range(size):
        return None
    if axis == ("T",) and isinstance(part, int):
        return part % size
    if axis == ("T",) and isinstance(part, slice) and _plain(part) and len(range(size)[part]) == 1:
        return range(size)[part][0]
    if axis == () and isinstance(part, int):
        return None
    what: dict[tuple[str, ...], str] = {
        ("B",): "rows of the batch",
        ("T",): "some of the steps",
        ("F",): "some of the features",
    }
    return call.unknown(
        f"it picks {what.get(axis, 'parts of joined axes')}; {_PICK.get(axis, STREAM)}"
    )


_PICK: dict[tuple[str, ...], str] = {
    ("B",): "rows are sessions of different clients",
    ("T",): "a stream has one step at a time: give all steps, or the last",
    ("F",): "a manifest has whole rows",
}


def _plain(part: slice) -> bool:
    return all(one is None or isinstance(one, int) for one in (part.start, part.stop, part.step))


def _last_of_each(call: Call, rows: Rows, index: tuple[Any, ...]) -> Rows | None:
    """x[arange(B), lengths − 1], where all lengths are whole."""
    if len(index) != 2 or rows.axes[:2] != (("B",), ("T",)):
        return None
    if not all(isinstance(part, Constant) for part in index):
        return None
    batch, time = (part.tensor.cpu() for part in index)
    in_order = batch.shape == (call.sizes.batch,) and torch.equal(batch, torch.arange(len(batch)))
    if not in_order or not bool((time == call.sizes.steps - 1).all()):
        return None
    return Rows(rows.expr, (("B",), *rows.axes[2:]), call.sizes.steps - 1)


def selected(call: Call) -> Result:
    """x.select(dim, index) and x.narrow(dim, start, length)."""
    rows, dim, start = (
        call.args[0],
        int(call.get(1, "dim")),
        call.get(2, "index", call.kwargs.get("start")),
    )
    if not isinstance(rows, Rows) or not isinstance(start, int):
        return call.unknown("it needs rows and a number")
    length = call.get(3, "length")
    part = start if call.name == "select" else slice(start, start + int(length))
    return _picked(call, rows, (*(slice(None),) * (dim % len(rows.axes)), part))


def divided(call: Call) -> Result:
    """x.unbind(dim), chunk and split: the steps one by one."""
    rows = call.args[0]
    dim = int(call.get(1 if call.name == "unbind" else 2, "dim", 0))
    if not isinstance(rows, Rows) or rows.at("T") != dim % len(rows.axes):
        return call.unknown("it divides something other than the steps")
    if len(call.value) != call.sizes.steps:
        return call.unknown(f"its parts have several steps; {STREAM}")
    joined = () if call.name == "unbind" else ((),)
    place = dim % len(rows.axes)
    axes = (*rows.axes[:place], *joined, *rows.axes[place + 1 :])
    return tuple(Rows(rows.expr, axes, time) for time in range(call.sizes.steps))


def joined(call: Call) -> Result:
    """torch.stack and torch.cat: the steps together again."""
    parts, dim = list(call.args[0]), int(call.get(1, "dim", 0))
    if not all(isinstance(part, Rows) for part in parts):
        return call.unknown("it joins things that are no rows of steps")
    first = parts[0]
    new = call.name == "stack"
    place = dim % (len(first.axes) + new)
    steps = all(p.expr is first.expr and p.axes == first.axes for p in parts)
    in_order = [part.time for part in parts] == list(range(call.sizes.steps))
    if steps and in_order and (new or first.axes[place] == ()):
        axes = (*first.axes[:place], ("T",), *first.axes[place + (not new) :])
        return Rows(first.expr, axes)
    if not new and first.axes[place] == ("F",):
        widths = " and ".join(str(part.width) for part in parts)
        return call.unknown(
            f"it joins rows of {widths} numbers side by side; a manifest has one chain of parts"
        )
    return call.unknown("it joins values that are not the steps of one computation, in their order")


def written(call: Call) -> Result:
    """Steps written into a tensor: y[:, t] = row."""
    target, index, value = call.args[0], call.args[1], call.args[2]
    index = index if isinstance(index, tuple) else (index,)
    if (
        not isinstance(value, Rows)
        or value.time is None
        or not isinstance(target, Constant | Filling)
    ):
        return call.unknown("it writes into a tensor something other than a step's row")
    places = [n for n, part in enumerate(index) if isinstance(part, int)]
    whole = all(part == slice(None) for n, part in enumerate(index) if n not in places)
    if len(places) != 1 or not whole or index[places[0]] % call.sizes.steps != value.time:
        return call.unknown("it writes into a tensor at something other than the row's own step")
    dim = places[0]
    before = target.steps if isinstance(target, Filling) else {}
    steps = before | {value.time: value}
    rows = list(steps.values())
    if any(row.expr is not value.expr or row.axes != value.axes for row in rows):
        return call.unknown("it writes rows that are computed in different ways")
    if len(steps) < call.sizes.steps:
        return Filling(dim, steps)
    return Rows(value.expr, (*value.axes[:dim], ("T",), *value.axes[dim:]))


def reordered(call: Call) -> Result:
    """x.index_select(dim, order), where the order is that of the batch."""
    rows, order = call.args[0], call.get(2, "index")
    if isinstance(rows, Rows) and isinstance(order, Constant):
        dim = int(call.get(1, "dim")) % len(rows.axes)
        found: Tensor = order.tensor.cpu()
        if rows.axes[dim] == ("B",) and torch.equal(found, torch.arange(call.sizes.batch)):
            return rows
        if rows.axes[dim] == ("T",) and found.tolist() == [call.sizes.steps - 1]:
            return Rows(rows.expr, (*rows.axes[:dim], (), *rows.axes[dim + 1 :]), int(found[0]))
    return call.unknown("it picks rows by a tensor of numbers")


SHAPING: dict[str, Handler] = {
    **dict.fromkeys(
        ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT"),
        permuted,
    ),
    "unsqueeze": unsqueezed,
    "squeeze": squeezed,
    **dict.fromkeys(("reshape", "view", "flatten", "unflatten", "view_as", "reshape_as"), reshaped),
    "__getitem__": indexed,
    "getitem": indexed,
    **dict.fromkeys(("select", "narrow"), selected),
    **dict.fromkeys(("unbind", "chunk", "split"), divided),
    **dict.fromkeys(("stack", "cat", "concat", "concatenate"), joined),
    "__setitem__": written,
    "index_select": reordered,
    **dict.fromkeys(
        ("contiguous", "clone", "detach", "to", "float", "cpu", "cuda", "type", "type_as", "data",
         "requires_grad_", "double", "bfloat16", "half", "alias", "detach_"),
        same,
    ),
}  # fmt: skip
"""Operations by name."""
