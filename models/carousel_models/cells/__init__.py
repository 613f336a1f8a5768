"""The recurrent cells: their code by name, and the modules that train them."""

from __future__ import annotations

from torch import nn

from carousel_models.errors import KernelError
from carousel_models.lookup import entry

from . import gated
from .gated import GRUResetBefore, Weights
from .interface import HALF, CellCode, CellStep, State, linear
from .modules import RecurrentLayers
from .whole import run_whole

__all__ = [
    "CELLS",
    "HALF",
    "MODULES",
    "OWN_MODULES",
    "CellCode",
    "CellStep",
    "GRUResetBefore",
    "RecurrentLayers",
    "State",
    "Weights",
    "code_of",
    "linear",
    "run_whole",
]

CELLS: dict[str, CellCode] = {
    "rnn_tanh": gated.RNN_TANH,
    "rnn_relu": gated.RNN_RELU,
    "lstm": gated.LSTM,
    "gru": gated.GRU,
    "gru_reset_before": GRUResetBefore.code,
}
"""One entry for each cell of `cell_facts`."""

OWN_MODULES: tuple[type[RecurrentLayers], ...] = (GRUResetBefore,)
"""Modules of layers that torch does not have."""

MODULES: tuple[type[nn.RNNBase] | type[RecurrentLayers], ...] = (
    *(nn.RNN, nn.LSTM, nn.GRU),
    *OWN_MODULES,
)
"""The recurrent modules that a package can have."""


def code_of(cell: str) -> CellCode:
    """The code of a cell.

    Raises:
        KernelError: there is none.
    """
    return entry(CELLS, cell, "cell", KernelError, "add its code to cells.CELLS")
