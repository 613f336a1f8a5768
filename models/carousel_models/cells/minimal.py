"""minGRU and minLSTM: Feng et al. 2024, "Were RNNs All We Needed?" (arXiv 2410.01201).

Their gates do not depend on h, so a whole sequence is one scan.

With the option `positive`, the candidate is g(W·x) with g(v) = v + 0.5 for v ≥ 0, else σ(v). This is the form
of the paper's appendix B, which computes in log space, and of the package minGRU-pytorch. Without it the
candidate is W·x, as in the paper's main part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.layer_spec import LayerSpec

from .interface import CellCode, State, linear
from .modules import RecurrentLayers
from .scan import linear_scan


class MinimalWeights(NamedTuple):
    """`ih` [gates × hidden, in] with its bias, and `hr` [proj_size, hidden], which makes the output of h."""

    ih: Tensor
    bias: Tensor | None
    hr: Tensor | None
    positive: bool

    @classmethod
    def of(cls, spec: LayerSpec, tensors: Mapping[str, Tensor]) -> MinimalWeights:
        """See `CellCode.prepare`."""
        return cls(
            tensors["weight_ih"], tensors.get("bias_ih"), tensors.get("weight_hr"),
            bool(spec.option("positive")),
        )  # fmt: skip

    def candidate(self, sums: Tensor) -> Tensor:
        """h̃ of its sums."""
        return torch.where(sums >= 0, sums + 0.5, torch.sigmoid(sums)) if self.positive else sums

    def output(self, h: Tensor) -> Tensor:
        """The layer's output."""
        return h if self.hr is None else linear(h, self.hr)


Coefficients = Callable[[Tensor, MinimalWeights], tuple[Tensor, Tensor]]
"""From the share to what h is multiplied by, and what is added to it."""


def share(x: Tensor, w: MinimalWeights) -> Tensor:
    """W·x + b of all gates."""
    return linear(x, w.ih, w.bias)


def min_gru(sums: Tensor, w: MinimalWeights) -> tuple[Tensor, Tensor]:
    """h̃ = W_h x or g(W_h x);  z = σ(W_z x);  h ← (1−z)∘h + z∘h̃. Blocks are h̃, z."""
    candidate, z = sums.chunk(2, dim=-1)
    return torch.sigmoid(-z), torch.sigmoid(z) * w.candidate(candidate)


def min_lstm(sums: Tensor, w: MinimalWeights) -> tuple[Tensor, Tensor]:
    """f, i = σ(W x);  h ← f/(f+i)∘h + i/(f+i)∘h̃. Blocks are h̃, f, i.

    f/(f+i) is σ(log f − log i), which does not divide 0 by 0 where both gates are closed.
    """
    candidate, f, i = sums.chunk(3, dim=-1)
    difference = F.softplus(-i) - F.softplus(-f)
    return torch.sigmoid(difference), torch.sigmoid(-difference) * w.candidate(candidate)


def _code(coefficients: Coefficients) -> CellCode:
    def step(sums: Tensor, state: State, w: MinimalWeights) -> tuple[Tensor, State]:
        decay, added = coefficients(sums, w)
        h = decay * state[0] + added
        return w.output(h), (h,)

    def scan(sums: Tensor, state: State, w: MinimalWeights) -> tuple[Tensor, State]:
        h = linear_scan(*coefficients(sums, w), state[0])
        return w.output(h), (h[-1],)

    return CellCode(MinimalWeights.of, share, step, scan)


class MinGRU(RecurrentLayers):
    """Layers of minGRU. Option `positive`: the candidate is g(W·x), as in log space.

    `weight_ih` has the blocks h̃, z. It is `to_hidden_and_gate.weight` of minGRU-pytorch, and `weight_hr` is
    its `to_out.weight`. That package has no biases and the positive form.
    """

    cell = "min_gru"
    code = _code(min_gru)


class MinLSTM(RecurrentLayers):
    """Layers of minLSTM. Option `positive`: the candidate is g(W·x), as in log space.

    `weight_ih` has the blocks h̃, f, i. It is `to_hidden_and_f_i_gate.weight` of minGRU-pytorch.
    """

    cell = "min_lstm"
    code = _code(min_lstm)
