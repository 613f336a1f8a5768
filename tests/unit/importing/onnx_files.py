"""ONNX files of recurrent layers, and their rows by the equations of ONNX in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

Array = NDArray[Any]
Arrays = dict[str, Array]

IN, HIDDEN, STEPS, BATCH = 3, 4, 6, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def write(
    file: Path,
    nodes: Sequence[Any],
    arrays: Arrays,
    *,
    inputs: dict[str, tuple[Any, ...]] | None = None,
    outputs: Sequence[str] = ("y",),
    tokens: bool = False,
    opset: int = 17,
) -> Path:
    """Writes a graph whose first input is x, float32["steps", "batch", IN] or tokens ["steps", "batch"]."""
    ports = {"x": ("steps", "batch") if tokens else ("steps", "batch", IN)} | (inputs or {})
    kinds = {"x": TensorProto.INT64 if tokens else TensorProto.FLOAT, "lengths": TensorProto.INT32}
    graph = helper.make_graph(
        list(nodes), "g",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in ports.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    onnx.save(model, file)
    return file


def weights(op: str, ways: int = 1, inputs: int = IN, seed: int = 0) -> Arrays:
    """Random W, R and B of a node."""
    random = np.random.default_rng(seed)
    rows = GATES[op] * HIDDEN
    shapes = {"W": (ways, rows, inputs), "R": (ways, rows, HIDDEN), "B": (ways, 2 * rows)}
    return {n: random.normal(size=s).astype(np.float32) / 2 for n, s in shapes.items()}


def node(op: str, x: str = "x", y: str = "y4", prefix: str = "", **options: Any) -> Any:
    """A recurrent node with a bias. Y is [T, D, B, H]."""
    names = [x, *(f"{prefix}{name}" for name in "WRB")]
    return helper.make_node(op, names, [y], name=f"{prefix}layer", hidden_size=HIDDEN, **options)


def squeezed(axis: int = 1, source: str = "y4", to: str = "y") -> tuple[Any, Arrays]:
    """A Squeeze of the axis of directions."""
    return helper.make_node("Squeeze", [source, "axis"], [to]), {"axis": np.array([axis])}


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(x: Array, h: Array, c: Array, w: Arrays, way: int) -> tuple[Array, Array]:
    """One step of ONNX's LSTM, with gates i o f c."""
    gates = w["W"][way] @ x + w["R"][way] @ h + sum(np.split(w["B"][way].astype(float), 2))
    i, o, f, g = np.split(gates, 4)
    p = np.split(w["P"][way].astype(float), 3) if "P" in w else np.zeros(3)
    i, f = sigmoid(i + p[0] * c), sigmoid(f + p[2] * c)
    c = f * c + i * np.tanh(g)
    return sigmoid(o + p[1] * c) * np.tanh(c), c


def gru(x: Array, h: Array, w: Arrays, way: int, *, before: bool) -> Array:
    """One step of ONNX's GRU, with gates z r h. `before`: linear_before_reset is 1."""
    wx = np.split(w["W"][way].astype(float) @ x, 3)
    r_z, r_r, r_h = np.split(w["R"][way].astype(float), 3)
    bias_w, bias_r = np.split(w["B"][way].astype(float), 2)
    (bz, br, bh), (cz, cr, ch) = np.split(bias_w, 3), np.split(bias_r, 3)
    z = sigmoid(wx[0] + r_z @ h + bz + cz)
    r = sigmoid(wx[1] + r_r @ h + br + cr)
    state = r * (r_h @ h + ch) + bh if before else r_h @ (r * h) + ch + bh
    return (1 - z) * np.tanh(wx[2] + state) + z * h


def rnn(x: Array, h: Array, w: Arrays, way: int, *, relu: bool) -> Array:
    """One step of ONNX's RNN."""
    total = w["W"][way] @ x + w["R"][way] @ h + sum(np.split(w["B"][way].astype(float), 2))
    found: Array = np.maximum(total, 0) if relu else np.tanh(total)
    return found


def rows(op: str, x: Array, w: Arrays, direction: str = "forward", **options: Any) -> Array:
    """Rows [T, directions × HIDDEN] of one sequence [T, IN], by the equations in float64."""
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    both = []
    for way, reverse in enumerate(ways):
        h = np.array(options.get("h", np.zeros(HIDDEN)), float)
        c = np.array(options.get("c", np.zeros(HIDDEN)), float)
        found = []
        for row in x[::-1] if reverse else x:
            if op == "LSTM":
                h, c = lstm(row, h, c, w, way)
            elif op == "GRU":
                h = gru(row, h, w, way, before=bool(options.get("linear_before_reset", 0)))
            else:
                h = rnn(row, h, w, way, relu=options.get("relu", False))
            found.append(h)
        both.append(np.array(found[::-1] if reverse else found))
    return np.concatenate(both, axis=1)
