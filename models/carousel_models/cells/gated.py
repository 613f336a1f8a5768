"""Cells whose gates are W·[h, x] + b: torch's RNN, LSTM and GRU, and the textbook's GRU.

The input's share is that of the gates, W_ih x + b_ih, float32[B, gates × hidden]. Gate order is torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from carousel_models.layer_spec import LayerSpec

from .interface import CellCode, CellStep, State, linear
from .modules import RecurrentLayers


class Weights(NamedTuple):
    """Weights of a direction of a layer. Matrices are [out, in], biases float32. `hr` projects h (lstm).

    `peepholes` are those of an lstm's i, f and o, [3 × hidden].
    """

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    hr: Tensor | None = None
    peepholes: Tensor | None = None

    @classmethod
    def of(cls, _: LayerSpec, tensors: Mapping[str, Tensor]) -> Weights:
        """From stored weights by name; see `CellCode.prepare`."""
        return cls(*(tensors.get(name) for name in _NAMES))  # type: ignore[arg-type]


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "peepholes")
"""The stored weights in the order of the fields of `Weights`."""


def gates_of(x: Tensor, w: Weights) -> Tensor:
    """The input's share of the gates."""
    return linear(x, w.ih, w.bias_ih)


def rnn_tanh(gates_x: Tensor, state: State, w: Weights) -> tuple[Tensor, State]:
    """H ← tanh(W·[h, x] + b)."""
    h = torch.tanh(gates_x + linear(state[0], w.hh, w.bias_hh))
    return h, (h,)


def rnn_relu(gates_x: Tensor, state: State, w: Weights) -> tuple[Tensor, State]:
    """H ← max(0, W·[h, x] + b)."""
    h = torch.relu(gates_x + linear(state[0], w.hh, w.bias_hh))
    return h, (h,)


def lstm(gates_x: Tensor, state: State, w: Weights) -> tuple[Tensor, State]:
    """C ← σ(f)∘c + σ(i)∘tanh(g);  h ← σ(o)∘tanh(c), then W_hr h if the layer projects.

    With peepholes (Gers and Schmidhuber 2000), p∘c is added to i and f, and p∘c of the new c to o.
    """
    h, c = state
    i, f, g, o = (gates_x + linear(h, w.hh, w.bias_hh)).chunk(4, dim=-1)
    if w.peepholes is not None:
        p_i, p_f, p_o = w.peepholes.chunk(3)
        i, f = i + p_i * c, f + p_f * c
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    if w.peepholes is not None:
        o = o + p_o * c
    h = torch.sigmoid(o) * torch.tanh(c)
    if w.hr is not None:
        h = linear(h, w.hr)
    return h, (h, c)


def gru(gates_x: Tensor, state: State, w: Weights) -> tuple[Tensor, State]:
    """PyTorch's form: n = tanh(x_n + r∘(W_hn h + b_hn));  h ← (1−z)∘n + z∘h."""
    (h,) = state
    xr, xz, xn = gates_x.chunk(3, dim=-1)
    hr, hz, hn = linear(h, w.hh, w.bias_hh).chunk(3, dim=-1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * hn)
    h = (1 - z) * n + z * h
    return h, (h,)


def gru_reset_before(gates_x: Tensor, state: State, w: Weights) -> tuple[Tensor, State]:
    """The textbook's form: h̃ = tanh(x_n + W_hn (r∘h) + b_hn);  h ← (1−z)∘h + z∘h̃."""
    (h,) = state
    hidden = h.shape[-1]
    w_rz, w_n = w.hh[: 2 * hidden], w.hh[2 * hidden :]
    b_rz, b_n = (
        (None, None) if w.bias_hh is None else (w.bias_hh[: 2 * hidden], w.bias_hh[2 * hidden :])
    )
    x_rz, x_n = gates_x[..., : 2 * hidden], gates_x[..., 2 * hidden :]
    r, z = torch.sigmoid(x_rz + linear(h, w_rz, b_rz)).chunk(2, dim=-1)
    n = torch.tanh(x_n + linear(r * h, w_n, b_n))
    h = (1 - z) * h + z * n
    return h, (h,)


def _fused(
    make: Callable[..., nn.RNNBase], spec: LayerSpec, weights: tuple[Weights, ...]
) -> nn.RNNBase | None:
    """Torch's layer on the same memory, if it computes in float32 and torch has such a layer."""
    first = weights[0]
    if first.ih.dtype != torch.float32 or spec.options or spec.backward:
        return None
    projection = {"proj_size": spec.proj_size} if spec.proj_size else {}
    module = make(
        *(first.ih.shape[1], spec.hidden),
        **{"bias": spec.bias, "bidirectional": spec.bidirectional, "device": "meta", **projection},
    )
    for direction, suffix in zip(weights, ("", "_reverse"), strict=False):
        for name, value in zip(_NAMES, direction, strict=True):
            if value is not None:
                setattr(module, f"{name}_l0{suffix}", nn.Parameter(value, requires_grad=False))
    # No move, but torch collects the weights now and not in the first call, on whatever thread that is.
    return module.to(first.ih.device)


def _torchs(step: CellStep, mode: str, make: Callable[..., nn.RNNBase]) -> CellCode:
    """A cell of torch."""
    return CellCode(Weights.of, gates_of, step, fused=partial(_fused, make), mode=mode)


RNN_TANH = _torchs(rnn_tanh, "RNN_TANH", partial(nn.RNN, nonlinearity="tanh"))
RNN_RELU = _torchs(rnn_relu, "RNN_RELU", partial(nn.RNN, nonlinearity="relu"))
LSTM = _torchs(lstm, "LSTM", nn.LSTM)
GRU = _torchs(gru, "GRU", nn.GRU)


class PeepholeLSTM(RecurrentLayers):
    """An LSTM whose gates also see c, which torch.nn.LSTM does not have (Gers and Schmidhuber 2000).

    Weights are named and shaped as in torch.nn.LSTM, with gates in the order i, f, g, o. `peepholes`
    [3 × hidden] has the gates i, f, o. (ONNX has i, o, f.)
    """

    cell = "lstm"
    code = LSTM

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        **options: bool | int,
    ) -> None:
        options["peepholes"] = True
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, **options)


class GRUResetBefore(RecurrentLayers):
    """The textbook GRU, which torch.nn.GRU does not have. Arguments, weights and results are as there.

    Gates are in the order r, z, n. The z is the textbook's, that is torch's 1−z.
    """

    cell = "gru_reset_before"
    code = CellCode(Weights.of, gates_of, gru_reset_before)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, bidirectional=bidirectional
        )
