"""Matrix products whose operands have the weights' type, and whose sums are float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows


def product(x: Tensor, weight: Tensor) -> Tensor:
    """X · Wᵀ: x [B, in] and weight [out, in], or one of each for each of [N, …], → float32[…, B, out].

    Both have one type. On CUDA bfloat16 goes through tensor cores, which add in float32 and are asked for it.
    """
    if weight.dtype == torch.float32:
        return torch.matmul(x, weight.mT)
    if x.is_cuda:
        multiply = torch.mm if x.dim() == 2 else torch.bmm
        return multiply(x, weight.mT, out_dtype=torch.float32)
    return torch.matmul(x.float(), weight.float().mT)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b: float32[…, in] → float32[…, out]."""
    if weight.dtype == torch.float32:
        return F.linear(x, weight, bias)
    rows = product(x.reshape(-1, x.shape[-1]).to(weight.dtype), weight)
    y = rows.view(*x.shape[:-1], len(weight))
    return y if bias is None else y.add_(bias)
