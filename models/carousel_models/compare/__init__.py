"""RNN, LSTM and GRU beside each other, measured on this machine.

`run()` measures, `table(comparison)` renders for a terminal with rich, `plot(comparison, path)` draws with
matplotlib. `this_machine()` says before how busy the machine is. Three comparisons: structure; performance
(quality on the same held-out text, time of a step, memory over long gaps); and where each fits, in words that
follow from the numbers.
"""

from __future__ import annotations

from .picture import plot
from .results import Comparison
from .running import run, this_machine
from .tables import table

__all__ = ["Comparison", "plot", "run", "table", "this_machine"]
