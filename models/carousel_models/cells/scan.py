"""A linear recurrence over whole sequences."""

from __future__ import annotations

import torch
from torch import Tensor

WIDE = 1 << 12
"""Numbers of a step from which a processor is busy with one step. Then the loop is the least work."""


def linear_scan(decay: Tensor, added: Tensor, start: Tensor) -> Tensor:
    """All h of h ← decay∘h + added, from h = start [...].

    `decay` and `added` are [T, ...], real or complex, and so is the result. Narrow steps, and all on a GPU,
    take ⌈log₂ T⌉ rounds over all of them, by recursive doubling (Hillis and Steele 1986; Blelloch 1990 for
    recurrences). Others are a loop.
    """
    if added.is_cpu and start.numel() >= WIDE:
        return _loop(decay, added, start)
    h = torch.cat((added[:1] + decay[:1] * start, added[1:]))
    distance = 1
    while distance < len(h):
        h = torch.cat((h[:distance], h[distance:] + decay[distance:] * h[:-distance]))
        decay = torch.cat((decay[:distance], decay[distance:] * decay[:-distance]))
        distance *= 2
    return h


def _loop(decay: Tensor, added: Tensor, start: Tensor) -> Tensor:
    h, rows = start, list[Tensor]()
    for factor, term in zip(decay, added, strict=True):
        h = torch.addcmul(term, factor, h)
        rows.append(h)
    return torch.stack(rows)
