"""Draws tokens from logits: one per row, each by its own settings and its own random number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carousel_server.core.types import Float64s, Int32s, Int64s


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """The settings of n rows, as arrays; see `carousel.v1.Sampling` for their meaning.

    Attributes:
        temperature, top_p, penalty: float64[n].
        top_k: int64[n], 0 for all.
        uniform: float64[n] in [0, 1), the random number of each draw.
        recent: int32[n, r], recent tokens, -1 where there is none.
    """

    temperature: Float64s
    top_k: Int64s
    top_p: Float64s
    penalty: Float64s
    uniform: Float64s
    recent: Int32s


def sample(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Draws one token per row.

    A row's token is a function of its own logits and settings: rows that need no order are drawn
    without sorting, the others with, and which path a row takes does not depend on its neighbours.

    Args:
        logits: float32[n, vocabulary].
        rows: settings of the n rows.

    Returns:
        int64[n], token ids, on the logits' device.
    """
    if (rows.penalty != 1.0).any():
        logits = _penalise(logits, rows)
    greedy = rows.temperature == 0.0
    tokens = logits.argmax(dim=1)
    truncated = ~greedy & ((rows.top_k > 0) | (rows.top_p < 1.0))
    for chosen, draw in ((~greedy & ~truncated, _draw), (truncated, _draw_truncated)):
        index = np.flatnonzero(chosen)
        if len(index):
            at = torch.from_numpy(index).to(logits.device)
            tokens[at] = draw(logits[at], rows, index)
    return tokens


def log_probabilities(logits: Tensor, tokens: Tensor, best: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the model itself gave to the tokens, before temperature and truncation.

    Returns:
        float32[n] of the tokens; float32[n, k] and int64[n, k] of the most probable ones, best
        first, k = min(best, vocabulary).
    """
    log_p = torch.log_softmax(logits, dim=1)
    values, ids = log_p.topk(min(best, log_p.shape[1]), dim=1)
    return log_p.gather(1, tokens[:, None])[:, 0], values, ids


def _penalise(logits: Tensor, rows: SamplingRows) -> Tensor:
    """Divides positive and multiplies negative logits of recent tokens (Keskar et al., CTRL, 2019)."""
    n, vocabulary = logits.shape
    device = logits.device
    recent = torch.from_numpy(rows.recent.astype(np.int64)).to(device)
    # Places without a token point at an extra column, which is cut off again.
    recent = torch.where(recent < 0, vocabulary, recent)
    wide = torch.cat((logits, logits.new_zeros(n, 1)), dim=1)
    penalty = torch.from_numpy(rows.penalty.astype(np.float32)).to(device)[:, None]
    seen = wide.gather(1, recent)
    wide.scatter_(1, recent, torch.where(seen > 0, seen / penalty, seen * penalty))
    return wide[:, :vocabulary]


def _scaled(logits: Tensor, rows: SamplingRows, index: Int64s) -> Tensor:
    """Probabilities at each row's temperature; float64[m, vocabulary]."""
    temperature = torch.from_numpy(rows.temperature[index]).to(logits.device)[:, None]
    return torch.softmax(logits.double() / temperature, dim=1)


def _draw(logits: Tensor, rows: SamplingRows, index: Int64s) -> Tensor:
    """Inverse of the cumulative distribution, in the order of the ids."""
    return _invert(_scaled(logits, rows, index), rows, index)


def _draw_truncated(logits: Tensor, rows: SamplingRows, index: Int64s) -> Tensor:
    """The same over the tokens that top-k and top-p keep, in the order of their probability."""
    probability, order = _scaled(logits, rows, index).sort(dim=1, descending=True, stable=True)
    device, vocabulary = logits.device, logits.shape[1]
    top_k = torch.from_numpy(rows.top_k[index]).to(device)[:, None]
    top_k = torch.where(top_k == 0, vocabulary, top_k)
    dropped = torch.arange(vocabulary, device=device)[None, :] >= top_k
    probability = probability.masked_fill(dropped, 0.0)
    probability = probability / probability.sum(dim=1, keepdim=True)
    top_p = torch.from_numpy(rows.top_p[index]).to(device)[:, None]
    before = probability.cumsum(dim=1) - probability
    # The first token always stays, whatever top_p is; at 1 rounding must not cut the tail.
    dropped = (before >= top_p) & (top_p < 1.0)
    dropped[:, 0] = False
    place = _invert(probability.masked_fill(dropped, 0.0), rows, index)
    return order.gather(1, place[:, None])[:, 0]


def _invert(weights: Tensor, rows: SamplingRows, index: Int64s) -> Tensor:
    """The first place whose cumulative weight exceeds uniform × total; int64[m]."""
    cumulative = weights.cumsum(dim=1)
    uniform = torch.from_numpy(rows.uniform[index]).to(weights.device)[:, None]
    place = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    # Rounding can leave the last sum a hair below the total: the last place with weight then.
    last = (weights > 0).cumsum(dim=1).argmax(dim=1)
    return torch.minimum(place, last)
