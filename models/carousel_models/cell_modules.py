"""Torch's single cells as recurrent modules of one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

CELL_MODULES: dict[type[nn.RNNCellBase], Callable[..., nn.RNNBase]] = {
    nn.LSTMCell: nn.LSTM,
    nn.GRUCell: nn.GRU,
    nn.RNNCell: nn.RNN,
}
"""The module of sequences for each cell. Weights are the same, and are named with `_l0` there."""


def layered(module: Any) -> Any:
    """A recurrent module with the weights of a cell. Anything else is returned as it is."""
    make = next((made for kind, made in CELL_MODULES.items() if isinstance(module, kind)), None)
    if make is None:
        return module
    options = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNNCell) else {}
    made = make(module.input_size, module.hidden_size, bias=module.bias, device="meta", **options)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        value = getattr(module, name, None)
        if value is not None:
            setattr(made, f"{name}_l0", nn.Parameter(value.detach(), requires_grad=False))
    return made
