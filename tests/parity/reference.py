"""Models computed from their equations in float64 NumPy: the measure for everything that we serve.

Written from the formulas, for one sequence at a time, without torch and without carousel_models. Reads
the manifest as JSON and the weights from the bytes of the safetensors format.

Gate blocks are stored i, f, g, o (lstm) and r, z, n (both GRUs). Equations, per step:
    rnn    h ← tanh(W·[h, x] + b), or max(0, ·)
    lstm   f, i, o = σ(W·[h, x] + b), c̃ = tanh(W·[h, x] + b), c ← f∘c + i∘c̃, h ← o∘tanh(c)
           (with a projection, h ← W_hr (o∘tanh(c)); with peepholes, i and f also see c, and o the new c)
    gru    r, z = σ(W·[h, x] + b), n = tanh(W_in x + b_in + r∘(W_hn h + b_hn)), h ← (1−z)∘n + z∘h
    gru_reset_before   r, z as above, h̃ = tanh(W·[r∘h, x] + b), h ← (1−z)∘h + z∘h̃
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.parity import newer_cells

Array = npt.NDArray[np.float64]
Tensors = dict[str, Array]


def run(package: Path | str, inputs: npt.ArrayLike) -> dict[str, npt.NDArray[Any]]:
    """The output fields of a whole sequence.

    Args:
        package: the folder of a package with built-in cells.
        inputs: [T, features] or [T] tokens.

    Returns:
        As named in the manifest's selection: y float64[T, W]; values float64[T, k] and indices
        int64[T, k]; or index int64[T].
    """
    package = Path(package)
    manifest = json.loads((package / "manifest.json").read_text())
    return finish(manifest, run_raw(package, inputs))


def run_raw(package: Path | str, inputs: npt.ArrayLike, initial: str = "") -> Array:
    """The head's rows float64[T, W], before transform and selection, from an initial state of the package."""
    package = Path(package)
    manifest = json.loads((package / "manifest.json").read_text())
    tensors = read_safetensors(package / "model.safetensors")
    rows = enter(manifest["input"], tensors, np.asarray(inputs))
    for number, layer in enumerate(manifest["stack"]):
        start = first_of(tensors, [f"initial.{initial}.{number}.", f"initial.{number}."])
        rows = run_layer(layer, tensors, f"stack.{number}", rows, start)
    return leave(manifest["head"], tensors, rows)


def read_safetensors(path: Path) -> Tensors:
    """All tensors of a file as float64; bfloat16 is the upper half of a float32."""
    data = path.read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        raw = data[start:end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "I32": "<i4"}[entry["dtype"]])
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


def enter(source: dict[str, Any], tensors: Tensors, inputs: npt.NDArray[Any]) -> Array:
    if source["kind"] == "tokens":
        rows = tensors["embedding.weight"][inputs.astype(np.int64)]
    else:
        rows = inputs.astype(np.float64)
        if source["normalization"]:
            mean, std = source["normalization"]["mean"], source["normalization"]["std"]
            rows = (rows - np.array(mean)) / np.array(std)
    rows = affine(tensors, "projection", rows) if source["projection"] else rows
    return run_parts(source.get("front", ()), tensors, "front", rows)


def run_parts(parts: Any, tensors: Tensors, prefix: str, rows: Array) -> Array:
    for number, part in enumerate(parts):
        rows = run_part(part, tensors, f"{prefix}.{number}", rows)
    return rows


def run_part(part: dict[str, Any], tensors: Tensors, name: str, rows: Array) -> Array:
    weight, bias = tensors.get(f"{name}.weight", 1.0), tensors.get(f"{name}.bias", 0.0)
    match part["kind"]:
        case "linear":
            return affine(tensors, name, rows)
        case "activation":
            return ACTIVATIONS[part["function"]](rows, **part.get("options", {}))
        case "prelu":
            return np.where(rows > 0, rows, weight * rows)
        case "norm":
            centred = rows - rows.mean(-1, keepdims=True) if part["norm"] == "layer" else rows
            mean = (centred**2).mean(-1, keepdims=True)
            return centred / np.sqrt(mean + part.get("eps", 1e-5)) * weight + bias
        case "scale":
            return rows * weight + bias
        case "skip":
            return rows + run_parts(part["parts"], tensors, name, rows)
    raise AssertionError(part)


def first_of(tensors: Tensors, prefixes: list[str]) -> Tensors:
    """A layer's stored h and c, each from the first prefix that has one."""
    found = {
        name: [tensors[prefix + name] for prefix in prefixes if prefix + name in tensors]
        for name in ("h", "c")
    }
    return {name: values[0] for name, values in found.items() if values}


def run_layer(
    layer: dict[str, Any], tensors: Tensors, prefix: str, rows: Array, start: Tensors
) -> Array:
    x = run_parts(layer.get("before", ()), tensors, f"{prefix}.before", rows)
    directions = []
    if not layer.get("backward"):
        directions.append(run_direction(layer, tensors, f"{prefix}.forward", x, start))
    if layer["bidirectional"] or layer.get("backward"):
        directions.append(run_direction(layer, tensors, f"{prefix}.backward", x[::-1], {})[::-1])
    out = np.concatenate(directions, axis=-1)
    out = run_parts(layer.get("between", ()), tensors, f"{prefix}.between", out)
    if layer["residual"]:
        out = out + rows
    if layer["layer_norm"]:
        centred = out - out.mean(-1, keepdims=True)
        out = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        out = out * tensors[f"{prefix}.norm.weight"] + tensors[f"{prefix}.norm.bias"]
    return run_parts(layer.get("after", ()), tensors, f"{prefix}.after", out)


class Direction:
    """The weights of one direction of one layer, by gate block."""

    def __init__(self, hidden: int, tensors: Tensors, prefix: str) -> None:
        self.hidden = hidden
        self.w_x, self.w_h = tensors[f"{prefix}.weight_ih"], tensors[f"{prefix}.weight_hh"]
        none = np.zeros(len(self.w_x))
        self.b_x, self.b_h = (
            tensors.get(f"{prefix}.bias_ih", none),
            tensors.get(f"{prefix}.bias_hh", none),
        )
        self.w_r = tensors.get(f"{prefix}.weight_hr")
        peepholes = tensors.get(f"{prefix}.peepholes", np.zeros(3 * hidden))
        self.p_i, self.p_f, self.p_o = np.split(peepholes, 3)

    def from_x(self, gate: int, x: Array) -> Array:
        rows = slice(gate * self.hidden, (gate + 1) * self.hidden)
        return x @ self.w_x[rows].T + self.b_x[rows]

    def from_h(self, gate: int, h: Array) -> Array:
        rows = slice(gate * self.hidden, (gate + 1) * self.hidden)
        return h @ self.w_h[rows].T + self.b_h[rows]

    def both(self, gate: int, h: Array, x: Array) -> Array:
        return self.from_x(gate, x) + self.from_h(gate, h)


def rnn_tanh(w: Direction, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return np.tanh(w.both(0, h, x)), c


def rnn_relu(w: Direction, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return np.maximum(0, w.both(0, h, x)), c


def lstm(w: Direction, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    i, f = sigmoid(w.both(0, h, x) + w.p_i * c), sigmoid(w.both(1, h, x) + w.p_f * c)
    c = f * c + i * np.tanh(w.both(2, h, x))
    h = sigmoid(w.both(3, h, x) + w.p_o * c) * np.tanh(c)
    return (h if w.w_r is None else h @ w.w_r.T), c


def gru(w: Direction, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    r, z = sigmoid(w.both(0, h, x)), sigmoid(w.both(1, h, x))
    n = np.tanh(w.from_x(2, x) + r * w.from_h(2, h))
    return (1 - z) * n + z * h, c


def gru_reset_before(w: Direction, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    r, z = sigmoid(w.both(0, h, x)), sigmoid(w.both(1, h, x))
    return (1 - z) * h + z * np.tanh(w.both(2, r * h, x)), c


CELLS = {cell.__name__: cell for cell in (rnn_tanh, rnn_relu, lstm, gru, gru_reset_before)}


def run_direction(
    layer: dict[str, Any], tensors: Tensors, prefix: str, rows: Array, start: Tensors
) -> Array:
    if layer["cell"] in newer_cells.CELLS:
        own = {n.removeprefix(f"{prefix}."): w for n, w in tensors.items() if n.startswith(prefix)}
        return np.array(list(newer_cells.CELLS[layer["cell"]](layer, own, rows, start)))
    weights = Direction(layer["hidden"], tensors, prefix)
    h = start.get("h", np.zeros(weights.w_h.shape[1]))
    c = start.get("c", np.zeros(weights.hidden))
    out = []
    for x in rows:
        h, c = CELLS[layer["cell"]](weights, x, h, c)
        out.append(h)
    return np.array(out)


def leave(head: dict[str, Any], tensors: Tensors, rows: Array) -> Array:
    if head["kind"] == "none":
        return rows
    if head["kind"] == "chain":
        return run_parts(head["parts"], tensors, "head", rows)
    hidden = len(head.get("hidden", ()))
    for number in range(hidden):
        rows = ACTIVATIONS[head["activation"]](affine(tensors, f"head.{number}", rows))
    return affine(tensors, f"head.{hidden}", rows)


def finish(manifest: dict[str, Any], rows: Array) -> dict[str, npt.NDArray[Any]]:
    output = manifest["output"]
    exponents = np.exp(rows - rows.max(-1, keepdims=True))
    softmax = exponents / exponents.sum(-1, keepdims=True)
    rows = {
        "identity": rows,
        "softmax": softmax,
        "sigmoid": sigmoid(rows),
        "log_softmax": rows
        - rows.max(-1, keepdims=True)
        - np.log(exponents.sum(-1, keepdims=True)),
    }[output["transform"]]
    select = output["select"]
    if select["kind"] == "full":
        return {"y": rows}
    if select["kind"] == "argmax":
        return {"index": rows.argmax(-1)}
    indices = np.argsort(-rows, axis=-1, kind="stable")[:, : select["k"]]
    return {"values": np.take_along_axis(rows, indices, -1), "indices": indices}


def affine(tensors: Tensors, name: str, rows: Array) -> Array:
    return rows @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0.0)


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def elu(v: Array, alpha: float = 1.0) -> Array:
    return np.where(v > 0, v, alpha * np.expm1(v))


def softplus(v: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return np.where(v * beta > threshold, v, np.log1p(np.exp(v * beta)) / beta)


def hardtanh(v: Array, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    return np.clip(v, min_val, max_val)


SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "relu": lambda v: np.maximum(0, v),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "gelu": lambda v: v / 2 * (1 + np.vectorize(math.erf)(v / math.sqrt(2))),
    "silu": lambda v: v * sigmoid(v),
    "gelu_tanh": lambda v: v / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "leaky_relu": lambda v, negative_slope=0.01: np.where(v > 0, v, negative_slope * v),
    "elu": elu,
    "celu": lambda v, alpha=1.0: np.maximum(0, v) + np.minimum(0, alpha * np.expm1(v / alpha)),
    "selu": lambda v: SELU_SCALE * elu(v, SELU_ALPHA),
    "softplus": softplus,
    "softsign": lambda v: v / (1 + np.abs(v)),
    "hardtanh": hardtanh,
    "relu6": lambda v: hardtanh(v, 0.0, 6.0),
    "hardsigmoid": lambda v: hardtanh(v + 3, 0.0, 6.0) / 6,
    "hardswish": lambda v: v * hardtanh(v + 3, 0.0, 6.0) / 6,
    "mish": lambda v: v * np.tanh(np.log1p(np.exp(v))),
    "logsigmoid": lambda v: -np.log1p(np.exp(-v)),
    "tanhshrink": lambda v: v - np.tanh(v),
}
"""Formulas of the documentation of torch.nn."""
