"""D4: how fast this machine copies so many bytes, and multiplies matrices by the fastest way we know."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.kernels import choose

from .cases import Case
from .timing import median_us

_ROWS, _WIDTH = 256, 1024


def copy_bytes_per_s(moved: int, seconds: float) -> float:
    """Bytes read and written per second where source and copy are so large together: a working set that
    fits a cache is copied at the cache's speed.
    """
    source = torch.ones(max(moved // 8, 1))
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_us(lambda: target.copy_(source), seconds) * 1e6


def operations_per_s(dtype: torch.dtype, seconds: float) -> float:
    """Of a large product: torch's, and each kernel's. A bf16 one may be computed in float32 units."""
    x, weight = torch.randn(_ROWS, _WIDTH), torch.randn(_WIDTH, _WIDTH)
    typed_x, typed = x.to(dtype), weight.to(dtype)
    runs = [lambda: F.linear(typed_x, typed), lambda: F.linear(x, weight)]
    native = choose("auto", x.device).linear(typed, None)
    runs.append(lambda: native(x))
    return 2 * _ROWS * _WIDTH**2 / min(median_us(run, seconds) for run in runs) * 1e6


def bound_us(case: Case, seconds: float) -> float:
    """The longer of moving a case's bytes and computing its products."""
    moving = case.bytes_moved / copy_bytes_per_s(case.bytes_moved, seconds)
    computing = case.operations / operations_per_s(case.torch_dtype, seconds)
    return max(moving, computing) * 1e6
