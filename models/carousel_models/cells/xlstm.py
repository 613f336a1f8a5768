"""sLSTM and mLSTM: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory" (arXiv 2405.04517).

The input gate is an exponential, and the forget gate a sigmoid. The state m keeps exponents small. States c
and n are stored divided by exp(m), which cancels in h. All states begin with zeros. As c and n are zero then,
m = 0 gives the same h as the m = −∞ of the formulas, and is finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.layer_spec import LayerSpec

from .interface import HALF, CellCode, State, linear
from .modules import RecurrentLayers
from .whole import run_steps


class SlstmWeights(NamedTuple):
    """`ih` [4 × hidden, in] and its bias; `heads` [heads, d, 4 × d], the products with each head's h."""

    ih: Tensor
    bias: Tensor | None
    heads: Tensor

    @classmethod
    def of(cls, spec: LayerSpec, tensors: Mapping[str, Tensor]) -> SlstmWeights:
        """See `CellCode.prepare`."""
        heads = int(spec.option("heads"))
        width = spec.hidden // heads
        blocks = tensors["weight_hh"].view(4, heads, width, width).permute(1, 3, 0, 2)
        recurrent = blocks.reshape(heads, width, 4 * width)
        return cls(tensors["weight_ih"], tensors.get("bias_ih"), recurrent)

    def recurrent(self, h: Tensor) -> Tensor:
        """From h [B, hidden] to each gate's share [B, 4, hidden], head by head."""
        heads, width = self.heads.shape[:2]
        rows = h.view(-1, heads, width).transpose(0, 1).to(self.heads.dtype)
        sums = torch.bmm(rows, self.heads)
        sums = sums.float() if sums.dtype in HALF else sums
        return sums.view(heads, -1, 4, width).permute(1, 2, 0, 3).reshape(-1, 4, heads * width)


def share(x: Tensor, w: SlstmWeights | MlstmWeights) -> Tensor:
    """W·x + b of all blocks."""
    return linear(x, w.ih, w.bias)


def slstm(gates_x: Tensor, state: State, w: SlstmWeights) -> tuple[Tensor, State]:
    """One step: c ← f∘c + i∘tanh(z̃);  n ← f∘n + i;  h ← σ(õ)∘c/n, with i = exp(ĩ) and f = σ(f̃).

    The sums ĩ, f̃, z̃, õ are W·[h, x] + b, in the order of the blocks.
    m ← max(log f + m, ĩ), and i and f are divided by exp of its change. A state with n = 0 has no past.
    """
    h, c, n, m = state
    sums = gates_x.view(len(h), 4, -1) + w.recurrent(h)
    i, f, z, o = sums.unbind(1)
    kept = F.logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(kept, i))
    i = torch.exp(i - m)
    f = torch.where(n == 0, torch.zeros_like(m), torch.exp(kept - m))
    c = f * c + i * torch.tanh(z)
    n = f * n + i
    h = torch.sigmoid(o) * c / n
    return h, (h, c, n, m)


class MlstmWeights(NamedTuple):
    """`ih` [4 × hidden + 2 × heads, in] with its bias, and the number of heads."""

    ih: Tensor
    bias: Tensor | None
    heads: int

    @classmethod
    def of(cls, spec: LayerSpec, tensors: Mapping[str, Tensor]) -> MlstmWeights:
        """See `CellCode.prepare`."""
        return cls(tensors["weight_ih"], tensors.get("bias_ih"), int(spec.option("heads")))


class _Parts(NamedTuple):
    """The parts of a share: q, k, v, o [..., heads, d], and i and log f [..., heads]."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    i: Tensor
    log_f: Tensor

    @classmethod
    def of(cls, sums: Tensor, heads: int) -> _Parts:
        rows, gates = sums[..., : -2 * heads], sums[..., -2 * heads :]
        q, k, v, o = rows.view(*rows.shape[:-1], 4, heads, -1).unbind(-3)
        i, f = gates.chunk(2, dim=-1)
        return cls(q, k * k.shape[-1] ** -0.5, v, torch.sigmoid(o), i, F.logsigmoid(f))


def mlstm(sums: Tensor, state: State, w: MlstmWeights) -> tuple[Tensor, State]:
    """C ← f·C + i·v kᵀ;  n ← f·n + i·k;  h = σ(õ)∘C q / max(|n·q|, exp(−m)), for each head.

    q, k, v, õ are W·x + b with k divided by √d. i = exp(ĩ) and f = σ(f̃) are numbers. Blocks are q, k, v, o,
    then i and f of all heads. m ← max(log f + m, ĩ), and i and f are divided by exp of its change. The
    package xlstm adds 10⁻⁶ to the denominator, which the paper does not have.
    """
    c, n, m = state
    p = _Parts.of(sums, w.heads)
    kept = p.log_f + m
    m = torch.maximum(kept, p.i)
    i, f = torch.exp(p.i - m)[..., None], torch.exp(kept - m)[..., None]
    c = torch.addcmul(f[..., None] * c, (i * p.v)[..., None], p.k[..., None, :])
    n = f * n + i * p.k
    found = torch.matmul(c, p.q[..., None]).squeeze(-1)
    scale = torch.maximum((n * p.q).sum(-1).abs(), torch.exp(-m))
    y = p.o * found / scale[..., None]
    return y.flatten(1), (c, n, m)


def mlstm_scan(sums: Tensor, state: State, w: MlstmWeights) -> tuple[Tensor, State]:
    """Many steps at once: each attends to the steps before it, weighted by their gates, and to the state.

    See the paper's appendix A.2. The logarithm of the weight of step s in step t is ĩ_s plus log f of the
    steps after s, and that of the state is m plus all log f. m_t is the greatest of them.
    """
    if not torch.isfinite(sums).all():  # 0 · NaN would carry a step's NaN to the steps before it
        return run_steps(mlstm, sums, state, w)
    c, n, m = state
    p = _Parts.of(sums, w.heads)
    steps = len(sums)
    after = torch.ones(steps, steps, dtype=torch.bool, device=sums.device).tril()
    # [t, s, B, heads]. Sums, not differences of sums, so that a closed gate does not cost precision.
    spread = p.log_f[:, None].expand(steps, steps, *p.log_f.shape[1:])
    between = spread.masked_fill(~after.tril(-1)[..., None, None], 0).cumsum(0)
    weight = (between + p.i).masked_fill(~after[..., None, None], -torch.inf)
    kept = p.log_f.cumsum(0) + m
    m_all = torch.maximum(weight.amax(1), kept)
    weight, kept = torch.exp(weight - m_all[:, None]), torch.exp(kept - m_all)
    match = torch.einsum("tbhd,sbhd->tsbh", p.q, p.k) * weight
    match = match.masked_fill(~after[..., None, None], 0)  # where q·k is infinite
    of_state = torch.einsum("bhvd,tbhd->tbhv", c, p.q) * kept[..., None]
    found = torch.einsum("tsbh,sbhv->tbhv", match, p.v) + of_state
    total = match.sum(1) + torch.einsum("bhd,tbhd->tbh", n, p.q) * kept
    y = p.o * found / torch.maximum(total.abs(), torch.exp(-m_all))[..., None]
    last, stays = weight[-1][..., None], kept[-1][..., None]
    c = stays[..., None] * c + torch.einsum("sbhv,sbhd->bhvd", last * p.v, p.k)
    n = stays * n + (last * p.k).sum(0)
    return y.flatten(2), (c, n, m_all[-1])


class SLSTM(RecurrentLayers):
    """Layers of sLSTM. Option `heads`: h enters the gates of its own head only.

    `weight_ih` has the blocks i, f, z, o. `weight_hh` [4 × hidden, hidden / heads] has the same blocks, and
    in each block the heads' square matrices one below the other.
    """

    cell = "slstm"
    code = CellCode(SlstmWeights.of, share, slstm)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform weights; biases of the forget gates from 3 to 6, so that they begin open."""
        super().reset_parameters()
        one, two = self.hidden_size, 2 * self.hidden_size
        for bias in self.named("bias_ih"):
            bias[one:two] = torch.linspace(3, 6, one)


class MLSTM(RecurrentLayers):
    """Layers of mLSTM. Option `heads`: each has a matrix C [d, d] with d = hidden / heads.

    `weight_ih` has the blocks q, k, v, o of all heads, then i and f, with one row for each head.
    """

    cell = "mlstm"
    code = CellCode(MlstmWeights.of, share, mlstm, mlstm_scan)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform weights, and gates that depend on their biases first: those of f go from 3 to 6."""
        super().reset_parameters()
        heads = int(self.spec.option("heads"))
        for weight in self.named("weight_ih"):
            weight[-2 * heads :] = 0
        for bias in self.named("bias_ih"):
            bias[-2 * heads : -heads].normal_(std=0.1)
            bias[-heads:] = torch.linspace(3, 6, heads)
