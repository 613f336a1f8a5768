"""Compares recurrent cells by measurements on this machine.

`run()` measures, `table(comparison)` renders for a terminal with rich, `plot(comparison, path)` draws with
matplotlib. `this_machine()` shows before how busy the machine is. The first comparison is of structure. The
second is of performance: quality on the same held-out text, time of a step, memory over long gaps. The third
is where each cell fits, in words that follow from the numbers.
"""

from __future__ import annotations

from .picture import plot
from .results import Comparison
from .running import run, this_machine
from .tables import table

__all__ = ["Comparison", "plot", "run", "table", "this_machine"]
