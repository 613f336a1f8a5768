"""The code of a cell as the stack, the kernels and the modules use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.layer_spec import LayerSpec

State = tuple[Tensor, ...]

HALF = (torch.bfloat16, torch.float16)
"""Types whose rounding exceeds the tolerance of float32."""

CellStep = Callable[[Tensor, State, Any], tuple[Tensor, State]]
"""From the input's share, the state and the weights to the output and the new state."""


class CellCode(NamedTuple):
    """The code of one cell, by its equations. Matrix products run in the weights' type, all else in float32.

    Attributes:
        prepare: the weights of a direction, as the functions below take them, from the layer and its stored
            weights by name.
        share: the part of a step that needs no state, float32[…, n] from x float32[…, in]. A whole sequence's
            share is made at once.
        step: one step of a batch: share [B, n] and state [B, *shape] each → y [B, width] and the new state.
        scan: many steps of equally long sequences at once: share [T, B, n] and the state before → y
            [T, B, width] and the state after. A step that is not finite leaves the steps before it as they
            are. None where the loop over `step` is the only way.
        fused: a module of torch that runs whole sequences on the same memory, from the layer and the weights
            of its directions. None where there is none.
        mode: the `mode` of the torch module that trains the cell, or "" if torch has none.
    """

    prepare: Callable[[LayerSpec, Mapping[str, Tensor]], Any]
    share: Callable[[Tensor, Any], Tensor]
    step: CellStep
    scan: CellStep | None = None
    fused: Callable[[LayerSpec, tuple[Any, ...]], nn.RNNBase | None] | None = None
    mode: str = ""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b, with operands rounded to the weight's type. Of 16-bit types, result and bias are float32."""
    if weight.dtype not in HALF:
        return F.linear(x, weight, bias)
    y = F.linear(x.to(weight.dtype), weight).float()
    return y if bias is None else y + bias
