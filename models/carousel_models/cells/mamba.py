"""The selective state space layer of Mamba: Gu and Dao 2023 (arXiv 2312.00752), algorithm 2 and figure 3.

A step is [u, z] = W_in x, then u ← silu(causal convolution of u), [δ, B, C] = W_x u,
Δ = softplus(W_Δ δ + b), S ← exp(ΔA)∘S + (Δ∘u) Bᵀ, y = W_out ((S C + D∘u)∘silu(z)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.layer_spec import LayerSpec

from .interface import CellCode, State, linear
from .modules import RecurrentLayers
from .scan import linear_scan


class MambaWeights(NamedTuple):
    """Weights of a direction; `rates` is A [hidden, state_size]. The rest is named as in a package."""

    weight_in: Tensor
    bias_in: Tensor | None
    conv: Tensor
    conv_bias: Tensor
    weight_x: Tensor
    weight_dt: Tensor
    bias_dt: Tensor
    rates: Tensor
    skip: Tensor
    weight_out: Tensor | None
    bias_out: Tensor | None

    @classmethod
    def of(cls, _: LayerSpec, tensors: Mapping[str, Tensor]) -> MambaWeights:
        """See `CellCode.prepare`."""
        return cls(
            tensors["weight_in"], tensors.get("bias_in"), tensors["conv_weight"],
            tensors["conv_bias"], tensors["weight_x"], tensors["weight_dt"], tensors["bias_dt"],
            -torch.exp(tensors["rates_log"]), tensors["skip"], tensors.get("weight_out"),
            tensors.get("bias_out"),
        )  # fmt: skip


class _Selected(NamedTuple):
    """What the input selects: u [..., hidden], two of [..., hidden, state_size], and C [..., state_size]."""

    u: Tensor
    decay: Tensor
    added: Tensor
    read: Tensor

    @classmethod
    def of(cls, windows: Tensor, w: MambaWeights) -> _Selected:
        """From the last inputs of the convolution, [..., hidden, conv_width]."""
        u = F.silu((windows * w.conv).sum(-1) + w.conv_bias)
        size = w.rates.shape[1]
        rank = w.weight_dt.shape[1]
        delta, write, read = torch.split(linear(u, w.weight_x), [rank, size, size], dim=-1)
        delta = F.softplus(linear(delta, w.weight_dt) + w.bias_dt)
        decay = torch.exp(delta[..., None] * w.rates)
        return cls(u, decay, (delta * u)[..., None] * write[..., None, :], read)

    def output(self, state: Tensor, z: Tensor, w: MambaWeights) -> Tensor:
        """The layer's output for the state after the step."""
        y = torch.matmul(state, self.read[..., None]).squeeze(-1) + w.skip * self.u
        y = y * F.silu(z)
        return y if w.weight_out is None else linear(y, w.weight_out, w.bias_out)


def share(x: Tensor, w: MambaWeights) -> Tensor:
    """The convolution's input u, and z."""
    return linear(x, w.weight_in, w.bias_in)


def step(rows: Tensor, state: State, w: MambaWeights) -> tuple[Tensor, State]:
    """One step; see the module's first lines."""
    before, ssm = state
    u, z = rows.chunk(2, dim=-1)
    window = torch.cat((before, u[..., None]), dim=-1)
    selected = _Selected.of(window, w)
    ssm = torch.addcmul(selected.added, selected.decay, ssm)
    return selected.output(ssm, z, w), (window[..., 1:], ssm)


def scan(rows: Tensor, state: State, w: MambaWeights) -> tuple[Tensor, State]:
    """Many steps at once."""
    before, ssm = state
    u, z = rows.chunk(2, dim=-1)
    line = torch.cat((before.permute(2, 0, 1), u))
    selected = _Selected.of(line.unfold(0, w.conv.shape[1], 1), w)
    states = linear_scan(selected.decay, selected.added, ssm)
    after = line[len(u) :].permute(1, 2, 0)
    return selected.output(states, z, w), (after, states[-1])


class Mamba(RecurrentLayers):
    """Layers of Mamba's block, without the norm and the residual around it.

    hidden_size is the inner width, in the paper twice the width of x. `proj_size` is the width of y, in the
    paper that of x. Options: `state_size`, `conv_width`, and `dt_rank`, of which 0 is ⌈in / 16⌉. `bias` is of
    W_in and W_out. The paper has none.

    In the names of the package mamba-ssm, `weight_in` is in_proj.weight, `conv_weight` conv1d.weight[:, 0],
    `weight_x` x_proj.weight, `weight_dt` dt_proj.weight, `rates_log` A_log, `skip` D, `weight_out`
    out_proj.weight.
    """

    cell = "mamba"
    code = CellCode(MambaWeights.of, share, step, scan)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform weights; A = −1, −2, …; Δ between 0.001 and 0.1; D = 1."""
        super().reset_parameters()
        for rates in self.named("rates_log"):
            rates.copy_(torch.log(torch.arange(1.0, rates.shape[1] + 1)).expand_as(rates))
        for weight in self.named("weight_dt"):
            weight.uniform_(-(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
        for bias in self.named("bias_dt"):
            delta = torch.exp(torch.empty_like(bias).uniform_(math.log(1e-3), math.log(0.1)))
            bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # the inverse of softplus
        for skip in self.named("skip"):
            skip.fill_(1)
        for weight in self.named("conv_weight"):
            weight.uniform_(-(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
