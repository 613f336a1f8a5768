"""LSTM, GRU and RNN of ONNX as operations. No torch.

Source of the equations and layouts: the operator specification of ONNX, versions 7, 14 and 22 of LSTM, GRU
and RNN. W is [directions, gates × hidden, in], B is both biases one after the other, P is [directions,
3 × hidden].
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from carousel_models.importing.gates import in_our_order
from carousel_models.importing.ops import Array, Direction, Recur

from .axes import Atom, Axes, Group
from .graph import Node
from .reading import Call, Reading, Values, rows_of
from .values import Const, Filled, Final, NotAChainError, Rows, Steps, Value


class Form(NamedTuple):
    """A recurrent operation: the order of its gates, its activations, and the names of its states."""

    gates: str
    activations: tuple[str, ...]
    states: tuple[str, ...] = ("h",)


FORMS = {
    "LSTM": Form("iofc", ("sigmoid", "tanh", "tanh"), ("h", "c")),
    "GRU": Form("zrh", ("sigmoid", "tanh")),
    "RNN": Form("n", ("tanh",)),
}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
NEVER = "a step graph: its time axis has one step, which the graph makes"
"""Why a layer without an axis of time is no layer of a chain."""


def recurrent(call: Call) -> list[Value]:
    """The rows of a layer (Y), its last state (Y_h), and for an LSTM the last c (Y_c)."""
    given = (*call.values, *(None,) * 8)[:8]
    rows = rows_of(given[0])
    layout = call.node.attribute("layout", 0)
    direction = call.node.attribute("direction", "forward")
    if direction not in DIRECTIONS:
        raise NotAChainError(f"its direction is {direction!r}")
    rows, time, batch = _placed(rows, layout, call.reading)
    _lengths(given[4], rows, time, call.reading)
    recur = _recur(call.node, given, direction, call.reading)
    recur = _as_turned(rows, time, recur)
    width = rows.width
    wanted = recur.directions[0].weight_ih.shape[1]
    if width not in (None, wanted):
        raise NotAChainError(f"its W takes rows of {wanted}, and these have {width}")
    return _results(rows, recur, (time, batch), layout, call.reading)


def _placed(rows: Rows, layout: int, reading: Reading) -> tuple[Rows, Atom, Group]:
    """The rows, and their axes of time and of the batch."""
    rows = rows.bound()
    if len(rows.axes) != 3:
        raise NotAChainError(f"its input has {len(rows.axes)} axes")
    if rows.steps != "all":
        raise NotAChainError(
            "it reads a single row of a sequence, as a decoder does; import both by themselves"
        )
    first, second, _ = rows.axes
    times, batch = (second, first) if layout else (first, second)
    if len(times) != 1 or len(batch) > 1:
        raise NotAChainError(f"it belongs to {NEVER}")
    (time,) = times
    if rows.time not in (None, time):
        raise NotAChainError("it runs along another axis than the layer before")
    reading.steps_through_time = True
    return rows, time, batch


def _as_turned(rows: Rows, time: Atom, recur: Recur) -> Recur:
    """The layer in the order of time. Behind a sequence that was turned round it runs the other way."""
    if rows.turned is None:
        return recur
    if rows.turned != time or len(recur.directions) > 1:
        raise NotAChainError("it reads a sequence that was turned round, in both directions")
    return replace(recur, backward=not recur.backward)


def _lengths(value: Value | None, rows: Rows, time: Atom, reading: Reading) -> None:
    """Checks the lengths of sequences. An input of these is left out."""
    if value is None:
        return
    if isinstance(value, Rows) and value.raw and value.source != rows.source:
        reading.lengths.append(value.source)
        reading.note(f"{value.source} is left out: each sequence has its own length here")
    elif not isinstance(value, Const) or any(value.array != time.size):
        raise NotAChainError("its sequence_lens are constants that cut sequences, or are computed")


def _recur(node: Node, given: Values, direction: str, reading: Reading) -> Recur:
    form = FORMS[node.op]
    count = DIRECTIONS[direction]
    cell = _cell(node, form, count)
    w, r, b, p = (_weights(given[place], name, count) for place, name in PLACES.items())
    if w is None or r is None:
        raise NotAChainError("it has no weights")
    hidden = r.shape[2]
    if w.shape[1] != len(form.gates) * hidden or node.attribute("hidden_size", hidden) != hidden:
        raise NotAChainError(f"its W {list(w.shape)} and R {list(r.shape)} do not fit each other")
    negate = "z" if cell == "gru_reset_before" else ""

    def one(number: int) -> Direction:
        def ours(array: Array) -> Array:
            return in_our_order(array, cell, form.gates, negate)

        biases = (None, None) if b is None else np.split(b[number], 2)
        both = [None if bias is None else ours(bias) for bias in biases]
        peepholes = None if p is None else _peepholes(p[number])
        return Direction(ours(w[number]), ours(r[number]), both[0], both[1], None, peepholes)

    initial = {}
    for name, value in zip(form.states, given[5:7], strict=False):
        if (
            isinstance(value, Rows)
            and isinstance(given[0], Rows)
            and value.source == given[0].source
        ):
            raise NotAChainError(f"its initial_{name} is made of its own input")
        start = _initial(value, name, node.attribute("layout", 0), reading)
        if start is not None:
            initial[name] = start
    directions = tuple(map(one, range(count)))
    return Recur(cell, directions, backward=direction == "reverse", initial=initial)


PLACES = {1: "W", 2: "R", 3: "B", 7: "P"}


def _weights(value: Value | None, name: str, count: int) -> Array | None:
    if value is None:
        return None
    if not isinstance(value, Const):
        raise NotAChainError(
            f"its {name} is an input or is computed, and a package stores weights; make it an initializer"
        )
    if value.array.ndim != (3 if name in "WR" else 2) or len(value.array) != count:
        raise NotAChainError(
            f"its {name} is {list(value.array.shape)}, not that of {count} directions"
        )
    return value.array


def _peepholes(array: Array) -> Array:
    """From ONNX's order i o f to ours."""
    i, o, f = np.split(array, 3)
    return np.concatenate((i, f, o))


def _cell(node: Node, form: Form, count: int) -> str:
    if node.attribute("clip", None) is not None:
        raise NotAChainError(
            f"it has clip={node.attributes['clip']:g}, and no cell clips its gates"
        )
    if node.attribute("input_forget", 0):
        raise NotAChainError("it has input_forget=1, which couples gates, and the lstm does not")
    found = [name.lower() for name in node.attribute("activations", form.activations * count)]
    first, second = found[: len(form.activations)], found[len(form.activations) :]
    relu = node.op == "RNN" and first == ["relu"]
    if (tuple(first) != form.activations and not relu) or (count == 2 and second != first):
        allowed = ", ".join(form.activations) + (", or relu" if node.op == "RNN" else "")
        raise NotAChainError(f"it has activations {', '.join(found)}, and the cell has {allowed}")
    if node.op == "RNN":
        return f"rnn_{first[0]}"
    if node.op == "LSTM":
        return "lstm"
    return "gru" if node.attribute("linear_before_reset", 0) else "gru_reset_before"


def _initial(value: Value | None, name: str, layout: int, reading: Reading) -> Array | None:
    """The numbers that a state begins with, [width], or None for zeros and for an input of the graph."""
    if value is None:
        return None
    if isinstance(value, Rows) and value.raw:
        if value.source not in reading.states:
            reading.states.append(value.source)
            reading.note(f"{value.source} is the state of a session, which begins with zeros")
        return None
    if not isinstance(value, Const | Filled):
        raise NotAChainError(f"its initial_{name} is computed from rows")
    array = np.moveaxis(value.array, 0, 1) if layout else value.array
    if not array.any():
        return None
    if len(array) != 1 or (array != array[:, :1]).any():
        raise NotAChainError(f"its initial_{name} differs between the sequences or directions")
    found: Array = array[0, 0]
    return found


def _results(
    rows: Rows, recur: Recur, entered: tuple[Atom, Group], layout: int, reading: Reading
) -> list[Value]:
    time, batch = entered
    count = len(recur.directions)
    ways: Group = (reading.atom("directions", count),) if count > 1 else ()
    inner: Group = (reading.atom("hidden", recur.hidden),)
    if layout:
        axes: Axes = (batch, (time,), ways, inner)
        ends: Axes = (batch, ways, inner)
    else:
        axes, ends = ((time,), ways, batch, inner), (ways, batch, inner)
    y = replace(
        rows,
        axes=axes,
        row=ways + inner,
        ops=(*rows.ops, recur),
        time=time,
        below=rows,
        final=False,
    )
    steps: Steps = "ends" if count > 1 else "first" if recur.backward else "last"
    last = replace(y, axes=ends, steps=steps, final=True)
    return [y, last, Final()]


def rolled(source: Rows, axis: int, recur: Recur, reading: Reading) -> Rows:
    """The rows of a layer that a file has step after step along an axis."""
    group = source.axes[axis]
    if len(group) != 1 or source.time not in (None, group[0]):
        raise NotAChainError("it joins the steps of an axis that is not time")
    (time,) = group
    reading.steps_through_time = True
    recur = _as_turned(source, time, recur)
    row: Group = (reading.atom("hidden", recur.hidden),)
    axes = tuple(row if group == source.row else group for group in source.axes)
    return replace(
        source, axes=axes, row=row, ops=(*source.ops, recur), time=time, below=source, final=False
    )
