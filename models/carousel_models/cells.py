"""The recurrent cells, one step each, and the textbook GRU as a module that can be trained.

Every cell takes `gates_x`, the input's share of the gates (W_ih x + b_ih, float32[B, gates × hidden]),
so that a whole sequence's share can be made by one matrix product. Gate order is torch's. Matrix
products run in the weights' type, everything else in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from .errors import KernelError
from .lookup import entry

State = tuple[Tensor, ...]


class Weights(NamedTuple):
    """Weights of a direction of a layer. Matrices are [out, in], biases float32. `hr` projects h (lstm)."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    hr: Tensor | None = None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b, with operands rounded to the weight's type. Result and bias are float32."""
    if weight.dtype == torch.float32:
        return F.linear(x, weight, bias)
    y = F.linear(x.to(weight.dtype), weight).float()
    return y if bias is None else y + bias


def rnn_tanh(gates_x: Tensor, state: State, w: Weights) -> tuple[Tensor, State]:
    """H ← tanh(W·[h, x] + b)."""
    h = torch.tanh(gates_x + linear(state[0], w.hh, w.bias_hh))
    return h, (h,)


def rnn_relu(gates_x: Tensor, state: State, w: Weights) -> tuple[Tensor, State]:
    """H ← max(0, W·[h, x] + b)."""
    h = torch.relu(gates_x + linear(state[0], w.hh, w.bias_hh))
    return h, (h,)


def lstm(gates_x: Tensor, state: State, w: Weights) -> tuple[Tensor, State]:
    """C ← σ(f)∘c + σ(i)∘tanh(g);  h ← σ(o)∘tanh(c), then W_hr h if the layer projects."""
    h, c = state
    i, f, g, o = (gates_x + linear(h, w.hh, w.bias_hh)).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
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


CellStep = Callable[[Tensor, State, Weights], tuple[Tensor, State]]


class GRUResetBefore(nn.Module):
    """The textbook GRU, which torch.nn.GRU does not have. Arguments, weights and results are as there.

    Weights are named and shaped as in torch.nn.GRU, gates in the order r, z, n; z is the textbook's,
    that is torch's 1−z. `forward(x, h0=None)` takes x float[T, N, F], or [N, T, F] with `batch_first`,
    and returns (y, h_n) with h_n float[layers × directions, N, hidden].
    """

    mode = "GRU_RESET_BEFORE"
    proj_size = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        bound = hidden_size**-0.5
        suffixes = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * len(suffixes)
            for suffix in suffixes:
                for name, shape in self._shapes(width).items():
                    value = torch.empty(shape).uniform_(-bound, bound)
                    self.register_parameter(f"{name}_l{layer}{suffix}", nn.Parameter(value))

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        rows = 3 * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, width),
            "weight_hh": (rows, self.hidden_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        return shapes

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs whole sequences of equal length. The class has the shapes."""
        x = x.transpose(0, 1) if self.batch_first else x
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        if h0 is None:
            h0 = x.new_zeros(self.num_layers * len(suffixes), x.shape[1], self.hidden_size)
        finals: list[Tensor] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in suffixes:
                y, h = self._direction(x, h0[len(finals)], f"l{layer}{suffix}", bool(suffix))
                outputs.append(y)
                finals.append(h)
            x = torch.cat(outputs, dim=-1)
        return x.transpose(0, 1) if self.batch_first else x, torch.stack(finals)

    def _direction(self, x: Tensor, h: Tensor, suffix: str, reverse: bool) -> tuple[Tensor, Tensor]:
        weights = Weights(
            getattr(self, f"weight_ih_{suffix}"),
            getattr(self, f"weight_hh_{suffix}"),
            getattr(self, f"bias_ih_{suffix}", None),
            getattr(self, f"bias_hh_{suffix}", None),
        )
        gates_x = linear(x, weights.ih, weights.bias_ih)
        outputs: list[Tensor] = []
        for step in reversed(gates_x) if reverse else gates_x:
            h, _ = gru_reset_before(step, (h,), weights)
            outputs.append(h)
        return torch.stack(outputs[::-1] if reverse else outputs), h


class CellCode(NamedTuple):
    """The code of one cell.

    Attributes:
        step: one step, by the equations.
        module: the torch module that trains it.
        mode: the `mode` of such a module.
        fused: makes a module of torch that runs whole sequences on the same weights; None where there is
            none. It takes what nn.RNN takes, and `proj_size` if the cell projects.
    """

    step: CellStep
    module: type[nn.RNNBase] | type[GRUResetBefore]
    mode: str
    fused: Callable[..., nn.RNNBase] | None


CELLS: dict[str, CellCode] = {
    "rnn_tanh": CellCode(rnn_tanh, nn.RNN, "RNN_TANH", partial(nn.RNN, nonlinearity="tanh")),
    "rnn_relu": CellCode(rnn_relu, nn.RNN, "RNN_RELU", partial(nn.RNN, nonlinearity="relu")),
    "lstm": CellCode(lstm, nn.LSTM, "LSTM", nn.LSTM),
    "gru": CellCode(gru, nn.GRU, "GRU", nn.GRU),
    "gru_reset_before": CellCode(gru_reset_before, GRUResetBefore, GRUResetBefore.mode, None),
}
"""One entry for each cell of `cell_facts`."""

MODULES = tuple(dict.fromkeys(code.module for code in CELLS.values()))
"""The recurrent modules that a package can have."""


def code_of(cell: str) -> CellCode:
    """The code of a cell.

    Raises:
        KernelError: there is none.
    """
    return entry(CELLS, cell, "cell", KernelError, "add its code to cells.CELLS")
