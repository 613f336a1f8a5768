"""Facts of the recurrent cells by name, for manifests, packages and reports. No torch.

`cells` has the code of each cell, and `kernels` its fast forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import PackageError
from .lookup import entry

Cell = Literal["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before"]


@dataclass(frozen=True, slots=True)
class CellFacts:
    """Facts of every layer of one cell.

    Attributes:
        equation: the step, for people.
        gates: number of gate blocks in its weight matrices.
        memory: True if it has a second state c beside h.
        projects: True if a layer may project its h to fewer numbers.
        bounded: True if |h| ≤ 1 without a projection, and c grows by at most 1 a step.
    """

    equation: str
    gates: int
    memory: bool = False
    projects: bool = False
    bounded: bool = True


FACTS: dict[str, CellFacts] = {
    "rnn_tanh": CellFacts("h ← tanh(W·[h,x])", gates=1),
    "rnn_relu": CellFacts("h ← max(0, W·[h,x])", gates=1, bounded=False),
    "lstm": CellFacts(
        "f,i,o = σ(W·[h,x]);  c ← f∘c + i∘tanh(W·[h,x]);  h ← o∘tanh(c)",
        gates=4,
        memory=True,
        projects=True,
    ),
    "gru": CellFacts("z,r = σ(W·[h,x]);  n = tanh(W·x + r∘W·h);  h ← (1−z)∘n + z∘h", gates=3),
    "gru_reset_before": CellFacts(
        "z,r = σ(W·[h,x]);  n = tanh(W·[r∘h,x]);  h ← (1−z)∘h + z∘n", gates=3
    ),
}
"""One entry for each name in `Cell`."""


def facts_of(cell: str) -> CellFacts:
    """The facts of a cell.

    Raises:
        PackageError: there is no such cell.
    """
    return entry(
        FACTS, cell, "cell", PackageError, "use one of these, or add it to cell_facts.FACTS"
    )
