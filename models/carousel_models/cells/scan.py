"""A parallel scan of a linear recurrence, for whole sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_scan(decay: Tensor, added: Tensor, start: Tensor) -> Tensor:
    """All h of h ← decay∘h + added, from h = start [...].

    `decay` and `added` are [T, ...], real or complex, and so is the result. It takes ⌈log₂ T⌉ rounds over all
    steps, by recursive doubling (Hillis and Steele 1986; Blelloch 1990 for recurrences).
    """
    h = torch.cat((added[:1] + decay[:1] * start, added[1:]))
    distance = 1
    while distance < len(h):
        h = torch.cat((h[:distance], h[distance:] + decay[distance:] * h[:-distance]))
        decay = torch.cat((decay[:distance], decay[distance:] * decay[:-distance]))
        distance *= 2
    return h
