"""The recurrent cells: their code by name, and the modules that train them."""

from __future__ import annotations

from torch import nn

from carousel_models.errors import KernelError
from carousel_models.lookup import entry

from . import gated
from .diagonal import LRU, Diagonal
from .gated import GRUResetBefore, PeepholeLSTM, Weights
from .interface import HALF, CellCode, CellStep, State, linear
from .mamba import Mamba
from .minimal import MinGRU, MinLSTM
from .modules import RecurrentLayers
from .whole import run_whole
from .xlstm import MLSTM, SLSTM

__all__ = [
    "CELLS",
    "HALF",
    "LRU",
    "MLSTM",
    "MODULES",
    "OWN_MODULES",
    "SLSTM",
    "CellCode",
    "CellStep",
    "Diagonal",
    "GRUResetBefore",
    "Mamba",
    "MinGRU",
    "MinLSTM",
    "PeepholeLSTM",
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
    "min_gru": MinGRU.code,
    "min_lstm": MinLSTM.code,
    "slstm": SLSTM.code,
    "mlstm": MLSTM.code,
    "diagonal": Diagonal.code,
    "mamba": Mamba.code,
}
"""One entry for each cell of `cell_facts`."""

OWN_MODULES: tuple[type[RecurrentLayers], ...] = (
    *(PeepholeLSTM, GRUResetBefore),
    *(MinGRU, MinLSTM, SLSTM, MLSTM, LRU, Diagonal, Mamba),
)
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
