"""Facts of the recurrent cells by name: equation, options, weights and states. No torch.

`cells` has the code of each cell, and `kernels` its fast forms. Manifests, packages, kernels and reports
follow from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from .errors import PackageError
from .lookup import entry

if TYPE_CHECKING:
    from .layer_spec import LayerSpec

Cell = Literal["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before"]

OptionValue = bool | int

Projection = Literal["none", "narrower", "free"]
"""Whether a layer may project its output: not at all, to fewer numbers than `hidden`, or to any number."""


class Option(NamedTuple):
    """An option of a cell, beyond those of every layer.

    `least` is the smallest value of an integer. The type of `default` is that of all values.
    """

    default: OptionValue
    meaning: str
    least: int = 0


class Weight(NamedTuple):
    """A stored weight. `product`: it multiplies rows of numbers, so it has the model's type, else float32."""

    shape: tuple[int, ...]
    product: bool = False


class CellState(NamedTuple):
    """One state of one direction of a layer: its name, and its shape and type for one session."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"


@dataclass(frozen=True, slots=True)
class CellFacts:
    """Facts of every layer of one cell.

    Attributes:
        equation: the step, for people.
        gates: number of blocks of `hidden` numbers that a step makes of x by its weight matrices.
        weights: stored weights by name, from a layer and the width of its input.
        states: the states of a layer.
        unseen: names of the states that can become infinite in a step whose outputs are finite.
        projection: whether a layer may project its output.
        options: the cell's own options by name.
        kernels: names of the kernels with native code for the cell. All others run its reference code.
    """

    equation: str
    gates: int
    weights: Callable[[LayerSpec, int], dict[str, Weight]]
    states: Callable[[LayerSpec], tuple[CellState, ...]]
    unseen: Callable[[LayerSpec], tuple[str, ...]]
    projection: Projection = "none"
    options: Mapping[str, Option] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()


def gated(
    equation: str,
    gates: int,
    *,
    memory: bool = False,
    bounded: bool = True,
    projection: Projection = "none",
) -> CellFacts:
    """Facts of a cell whose gates are W·[h, x] + b, with torch's weights.

    `memory`: it has a second state c. `bounded`: |h| ≤ 1 without a projection, and c grows by at most 1 a
    step. A layer after this one may turn an infinite h into finite numbers.
    """

    def weights(layer: LayerSpec, inputs: int) -> dict[str, Weight]:
        rows = gates * layer.hidden
        found = {
            "weight_ih": Weight((rows, inputs), product=True),
            "weight_hh": Weight((rows, layer.direction_width), product=True),
        }
        if layer.bias:
            found |= {"bias_ih": Weight((rows,)), "bias_hh": Weight((rows,))}
        if layer.proj_size:
            found["weight_hr"] = Weight((layer.proj_size, layer.hidden), product=True)
        return found

    def states(layer: LayerSpec) -> tuple[CellState, ...]:
        h = CellState("h", (layer.direction_width,))
        return (h, CellState("c", (layer.hidden,))) if memory else (h,)

    def unseen(layer: LayerSpec) -> tuple[str, ...]:
        return () if bounded and not layer.proj_size else ("h",)

    return CellFacts(
        equation, gates, weights, states, unseen, projection, kernels=("cpu", "cuda")
    )  # fmt: skip


FACTS: dict[str, CellFacts] = {
    "rnn_tanh": gated("h ← tanh(W·[h,x])", 1),
    "rnn_relu": gated("h ← max(0, W·[h,x])", 1, bounded=False),
    "lstm": gated(
        "f,i,o = σ(W·[h,x]);  c ← f∘c + i∘tanh(W·[h,x]);  h ← o∘tanh(c)",
        4,
        memory=True,
        projection="narrower",
    ),
    "gru": gated("z,r = σ(W·[h,x]);  n = tanh(W·x + r∘W·h);  h ← (1−z)∘n + z∘h", 3),
    "gru_reset_before": gated("z,r = σ(W·[h,x]);  n = tanh(W·[r∘h,x]);  h ← (1−z)∘h + z∘n", 3),
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


def option_value(cell: str, name: str, value: object) -> OptionValue:
    """A value for an option of a cell, if it fits.

    Raises:
        ValueError: the cell has no such option, or the value does not fit it.
    """
    options = facts_of(cell).options
    if name not in options:
        known = ", ".join(options) or "none"
        raise ValueError(f"{cell} has no option {name!r}; its options: {known}")
    option = options[name]
    if type(value) is not type(option.default):
        kind = type(option.default).__name__
        raise ValueError(f"the option {name} of {cell} is of type {kind}, not {value!r}")
    assert isinstance(value, bool | int)
    if value < option.least:
        raise ValueError(f"the option {name} of {cell} is {option.least} or more, not {value}")
    return value
