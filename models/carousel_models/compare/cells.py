"""The cells that are compared: what each is called and drawn as, and the module that trains it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from carousel_models.cells import LRU, MLSTM, SLSTM, Mamba, MinGRU, MinLSTM
from carousel_models.errors import PackageError
from carousel_models.lookup import entry


class Compared(NamedTuple):
    """One cell of the comparison.

    Attributes:
        label: its name for people.
        make: makes the module that trains it, from the widths of its input and of its output, and the
            number of layers.
        colour: of its curves and bars.
        marker: of its points.
        size: of its markers. Where curves coincide, the one drawn first has the largest.
    """

    label: str
    make: Callable[..., Any]
    colour: str
    marker: str
    size: float = 5


def lstm(inputs: int, hidden: int, layers: int = 1) -> nn.LSTM:
    """An LSTM whose forget gates begin open (Jozefowicz, Zaremba and Sutskever 2015)."""
    module = nn.LSTM(inputs, hidden, layers)
    with torch.no_grad():
        for name, bias in module.named_parameters():
            if name.startswith("bias_ih"):
                bias[hidden : 2 * hidden] = 1.0
    return module


# Colours: Okabe and Ito's palette, told apart by colour-blind eyes and in grey print, with a darker yellow.
CELLS: dict[str, Compared] = {
    "rnn": Compared("RNN", nn.RNN, "#E69F00", "o", 8),
    "lstm": Compared("LSTM", lstm, "#0072B2", "s", 11),
    "gru": Compared("GRU", nn.GRU, "#009E73", "^", 9),
    "min_gru": Compared("minGRU", MinGRU, "#56B4E9", "v", 7),
    "min_lstm": Compared("minLSTM", MinLSTM, "#CC79A7", "D", 5),
    "slstm": Compared("sLSTM", partial(SLSTM, heads=4), "#D55E00", "P", 6),
    "mlstm": Compared("mLSTM", partial(MLSTM, heads=4), "#000000", "X", 5),
    "lru": Compared("LRU", LRU, "#999999", "<", 5),
    "mamba": Compared("Mamba", Mamba, "#A89400", ">", 5),
}
"""The cells in the order of the tables. A name is also that of a package, pychar-NAME."""


def compared(name: str) -> Compared:
    """A cell of the comparison.

    Raises:
        PackageError: it is not compared.
    """
    return entry(CELLS, name, "compared cell", PackageError, "use one of these")
