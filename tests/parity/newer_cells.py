"""The equations of cells whose weights are not torch's, in float64 NumPy; see `reference`.

Written from the formulas of the papers, step by step, without the states that keep exponents small. `start`
has initial states by name; those without one are zeros.

    min_gru   z = σ(W_z x), h̃ = W_h x or g(W_h x), h ← (1−z)∘h + z∘h̃
    min_lstm  f, i = σ(W x), h ← f/(f+i)∘h + i/(f+i)∘h̃       (both: arXiv 2410.01201)
    slstm     f, o = σ(·), i = exp(·), c ← f∘c + i∘tanh(·), n ← f∘n + i, h ← o∘c/n
    mlstm     C ← f C + i v kᵀ, n ← f n + i k, h = o∘C q / max(|n·q|, 1), k scaled by 1/√d
                                                             (both: arXiv 2405.04517)
    diagonal  h ← λ∘h + B x, y = Re(C h) + D∘x               (arXiv 2303.06349, 2208.04933)
    mamba     u = silu(conv(u)), Δ = softplus(·), S ← exp(ΔA)∘S + Δ u Bᵀ, y = (S C + D∘u)∘silu(z)
                                                             (arXiv 2312.00752)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Tensors = dict[str, Array]
Layer = dict[str, Any]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def affine(w: Tensors, weight: str, bias: str, rows: Array) -> Array:
    return rows @ w[weight].T + w.get(bias, 0)


def option(layer: Layer, name: str, default: int) -> int:
    return layer.get("options", {}).get(name, default)


def candidate(layer: Layer, sums: Array) -> Array:
    if not option(layer, "positive", 0):
        return sums
    return np.where(sums >= 0, sums + 0.5, sigmoid(sums))


def projected(w: Tensors, h: Array) -> Array:
    return h if "weight_hr" not in w else w["weight_hr"] @ h


def min_gru(layer: Layer, w: Tensors, rows: Array, start: Tensors) -> Iterator[Array]:
    h = start.get("h", np.zeros(layer["hidden"]))
    for sums in affine(w, "weight_ih", "bias_ih", rows):
        proposed, z = np.split(sums, 2)
        z = sigmoid(z)
        h = (1 - z) * h + z * candidate(layer, proposed)
        yield projected(w, h)


def min_lstm(layer: Layer, w: Tensors, rows: Array, start: Tensors) -> Iterator[Array]:
    h = start.get("h", np.zeros(layer["hidden"]))
    for sums in affine(w, "weight_ih", "bias_ih", rows):
        proposed, f, i = np.split(sums, 3)
        f, i = sigmoid(f), sigmoid(i)
        h = f / (f + i) * h + i / (f + i) * candidate(layer, proposed)
        yield projected(w, h)


def slstm(layer: Layer, w: Tensors, rows: Array, start: Tensors) -> Iterator[Array]:
    hidden, heads = layer["hidden"], option(layer, "heads", 1)
    width = hidden // heads
    full = np.zeros((4 * hidden, hidden))  # the heads' blocks on the diagonal of each gate's matrix
    for row, values in enumerate(w["weight_hh"]):
        first = row % hidden // width * width
        full[row, first : first + width] = values
    h, c, n, m = (start.get(name, np.zeros(hidden)) for name in "hcnm")
    c, n = c * np.exp(m), n * np.exp(m)
    for sums in affine(w, "weight_ih", "bias_ih", rows):
        i, f, z, o = np.split(sums + full @ h, 4)
        i, f = np.exp(i), sigmoid(f)
        c = f * c + i * np.tanh(z)
        n = f * n + i
        h = sigmoid(o) * c / n
        yield h


def mlstm(layer: Layer, w: Tensors, rows: Array, start: Tensors) -> Iterator[Array]:
    hidden, heads = layer["hidden"], option(layer, "heads", 1)
    width = hidden // heads
    c, n = start.get("C", np.zeros((heads, width, width))), start.get("n", np.zeros((heads, width)))
    scale = np.exp(start.get("m", np.zeros(heads)))
    c, n = c * scale[:, None, None], n * scale[:, None]
    for sums in affine(w, "weight_ih", "bias_ih", rows):
        q, k, v, o = sums[: 4 * hidden].reshape(4, heads, width)
        i, f = np.exp(sums[4 * hidden :][:heads]), sigmoid(sums[4 * hidden + heads :])
        found = []
        for head in range(heads):
            key = k[head] / np.sqrt(width)
            c[head] = f[head] * c[head] + i[head] * np.outer(v[head], key)
            n[head] = f[head] * n[head] + i[head] * key
            least = max(abs(n[head] @ q[head]), 1.0)
            found.append(sigmoid(o[head]) * (c[head] @ q[head]) / least)
        yield np.concatenate(found)


def diagonal(layer: Layer, w: Tensors, rows: Array, start: Tensors) -> Iterator[Array]:
    hidden = layer["hidden"]
    decay = w["decay_re"] + 1j * w["decay_im"]
    b = w["weight_ih"][:hidden] + 1j * w["weight_ih"][hidden:]
    c = w["weight_ho"][:, :hidden] + 1j * w["weight_ho"][:, hidden:]
    h = start.get("re", np.zeros(hidden)) + 1j * start.get("im", np.zeros(hidden))
    for x in rows:
        h = decay * h + b @ x
        yield (c @ h).real + w.get("bias", 0) + (w["skip"] * x if "skip" in w else 0)


def mamba(layer: Layer, w: Tensors, rows: Array, start: Tensors) -> Iterator[Array]:
    hidden, size = layer["hidden"], option(layer, "state_size", 16)
    kernel = w["conv_weight"]
    inner = affine(w, "weight_in", "bias_in", rows)
    line, gate = inner[:, :hidden], inner[:, hidden:]
    state = start.get("ssm", np.zeros((hidden, size)))
    before = start.get("conv", np.zeros((hidden, kernel.shape[1] - 1)))
    line = np.concatenate([before.T, line])
    for t in range(len(rows)):
        u = w["conv_bias"].copy()
        for place in range(kernel.shape[1]):
            u += kernel[:, place] * line[t + place]
        u = silu(u)
        selected = w["weight_x"] @ u
        delta, write, read = selected[: -2 * size], selected[-2 * size : -size], selected[-size:]
        delta = np.log1p(np.exp(w["weight_dt"] @ delta + w["bias_dt"]))
        state = np.exp(delta[:, None] * -np.exp(w["rates_log"])) * state
        state = state + np.outer(delta * u, write)
        y = (state @ read + w["skip"] * u) * silu(gate[t])
        yield affine(w, "weight_out", "bias_out", y) if "weight_out" in w else y


CELLS: dict[str, Callable[[Layer, Tensors, Array, Tensors], Iterator[Array]]] = {
    cell.__name__: cell for cell in (min_gru, min_lstm, slstm, mlstm, diagonal, mamba)
}
