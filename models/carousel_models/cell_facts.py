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

Cell = Literal[
    "rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before",
    "min_gru", "min_lstm", "slstm", "mlstm", "diagonal", "mamba",
]  # fmt: skip

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
        check: raises ValueError for a layer whose options do not fit its sizes.
        keeps_width: True for a layer whose output must be as wide as its input.
    """

    equation: str
    gates: int
    weights: Callable[[LayerSpec, int], dict[str, Weight]]
    states: Callable[[LayerSpec], tuple[CellState, ...]]
    unseen: Callable[[LayerSpec], tuple[str, ...]]
    projection: Projection = "none"
    options: Mapping[str, Option] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()
    check: Callable[[LayerSpec], None] = lambda _: None
    keeps_width: Callable[[LayerSpec], bool] = lambda _: False


def gated(
    equation: str,
    gates: int,
    *,
    memory: bool = False,
    bounded: bool = True,
    projection: Projection = "none",
    options: Mapping[str, Option] | None = None,
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
        if layer.options.get("peepholes"):
            found["peepholes"] = Weight((3 * layer.hidden,))
        return found

    def states(layer: LayerSpec) -> tuple[CellState, ...]:
        h = CellState("h", (layer.direction_width,))
        return (h, CellState("c", (layer.hidden,))) if memory else (h,)

    def unseen(layer: LayerSpec) -> tuple[str, ...]:
        return () if bounded and not layer.proj_size else ("h",)

    return CellFacts(
        equation, gates, weights, states, unseen, projection, options or {}, ("cpu", "cuda")
    )  # fmt: skip


def _minimal(equation: str, gates: int) -> CellFacts:
    """Facts of a cell whose gates do not depend on h, which is its only state."""

    def weights(layer: LayerSpec, inputs: int) -> dict[str, Weight]:
        rows = gates * layer.hidden
        found = {"weight_ih": Weight((rows, inputs), product=True)}
        if layer.bias:
            found["bias_ih"] = Weight((rows,))
        if layer.proj_size:
            found["weight_hr"] = Weight((layer.proj_size, layer.hidden), product=True)
        return found

    return CellFacts(
        equation, gates, weights,
        states=lambda layer: (CellState("h", (layer.hidden,)),),
        unseen=lambda _: ("h",),
        projection="free",
        options={"positive": Option(default=False, meaning="the candidate is g(W·x), as in log space")},
    )  # fmt: skip


_HEADS = {"heads": Option(1, "parts of h that do not see each other", least=1)}


def _heads_divide(layer: LayerSpec) -> None:
    heads = layer.option("heads")
    if layer.hidden % heads:
        raise ValueError(f"{heads} heads do not divide hidden={layer.hidden} into equal parts")


def _slstm_weights(layer: LayerSpec, inputs: int) -> dict[str, Weight]:
    rows, width = 4 * layer.hidden, layer.hidden // layer.option("heads")
    found = {
        "weight_ih": Weight((rows, inputs), product=True),
        "weight_hh": Weight((rows, width), product=True),
    }
    return found | ({"bias_ih": Weight((rows,))} if layer.bias else {})


def _mlstm_weights(layer: LayerSpec, inputs: int) -> dict[str, Weight]:
    rows = 4 * layer.hidden + 2 * layer.option("heads")
    found = {"weight_ih": Weight((rows, inputs), product=True)}
    return found | ({"bias_ih": Weight((rows,))} if layer.bias else {})


def _mlstm_states(layer: LayerSpec) -> tuple[CellState, ...]:
    heads = layer.option("heads")
    width = layer.hidden // heads
    shapes = {"C": (heads, width, width), "n": (heads, width), "m": (heads,)}
    return tuple(CellState(name, shape) for name, shape in shapes.items())


def _diagonal_weights(layer: LayerSpec, inputs: int) -> dict[str, Weight]:
    hidden, width = layer.hidden, layer.direction_width
    found = {
        "decay_re": Weight((hidden,)),
        "decay_im": Weight((hidden,)),
        "weight_ih": Weight((2 * hidden, inputs), product=True),
        "weight_ho": Weight((width, 2 * hidden), product=True),
    }
    found |= {"skip": Weight((width,))} if layer.option("skip") else {}
    return found | ({"bias": Weight((width,))} if layer.bias else {})


def _mamba_weights(layer: LayerSpec, inputs: int) -> dict[str, Weight]:
    hidden, states = layer.hidden, layer.option("state_size")
    rank = layer.option("dt_rank") or -(-inputs // 16)
    found = {
        "weight_in": Weight((2 * hidden, inputs), product=True),
        "conv_weight": Weight((hidden, layer.option("conv_width"))),
        "conv_bias": Weight((hidden,)),
        "weight_x": Weight((rank + 2 * states, hidden), product=True),
        "weight_dt": Weight((hidden, rank), product=True),
        "bias_dt": Weight((hidden,)),
        "rates_log": Weight((hidden, states)),
        "skip": Weight((hidden,)),
    }
    if layer.bias:
        found["bias_in"] = Weight((2 * hidden,))
    if layer.proj_size:
        found["weight_out"] = Weight((layer.proj_size, hidden), product=True)
        found |= {"bias_out": Weight((layer.proj_size,))} if layer.bias else {}
    return found


def _mamba_states(layer: LayerSpec) -> tuple[CellState, ...]:
    conv = CellState("conv", (layer.hidden, layer.option("conv_width") - 1))
    return (conv, CellState("ssm", (layer.hidden, layer.option("state_size"))))


FACTS: dict[str, CellFacts] = {
    "rnn_tanh": gated("h ← tanh(W·[h,x])", 1),
    "rnn_relu": gated("h ← max(0, W·[h,x])", 1, bounded=False),
    "lstm": gated(
        "f,i,o = σ(W·[h,x]);  c ← f∘c + i∘tanh(W·[h,x]);  h ← o∘tanh(c)",
        4,
        memory=True,
        projection="narrower",
        options={"peepholes": Option(default=False, meaning="the gates also see c")},
    ),
    "gru": gated("z,r = σ(W·[h,x]);  n = tanh(W·x + r∘W·h);  h ← (1−z)∘n + z∘h", 3),
    "gru_reset_before": gated(
        "z,r = σ(W·[h,x]);  n = tanh(W·[r∘h,x]);  h ← (1−z)∘h + z∘n", 3
    ),
    "min_gru": _minimal("z = σ(W·x);  h ← (1−z)∘h + z∘W·x", 2),
    "min_lstm": _minimal("f,i = σ(W·x);  h ← (f∘h + i∘W·x)/(f+i)", 3),
    "slstm": CellFacts(
        "f,o = σ(W·[h,x]), i = exp(W·[h,x]);  c ← f∘c + i∘tanh(W·[h,x]);  n ← f∘n + i;  h ← o∘c/n",
        4, _slstm_weights,
        states=lambda layer: tuple(CellState(name, (layer.hidden,)) for name in "hcnm"),
        unseen=lambda _: (),  # |c| ≤ n, which grows by at most 1 a step
        options=_HEADS, check=_heads_divide,
    ),
    "mlstm": CellFacts(
        "q,k,v = W·x;  C ← f·C + i·v kᵀ;  n ← f·n + i·k;  h = o∘C q/max(|n·q|, 1)",
        4, _mlstm_weights, _mlstm_states, unseen=lambda _: ("C", "n", "m"),
        options=_HEADS, check=_heads_divide,
    ),
    "diagonal": CellFacts(
        "h ← λ∘h + B·x;  y = Re(C·h), of complex numbers",
        2, _diagonal_weights,
        states=lambda layer: tuple(CellState(name, (layer.hidden,)) for name in ("re", "im")),
        unseen=lambda _: ("re", "im"),
        projection="free",
        options={"skip": Option(default=False, meaning="D∘x is added to y")},
        keeps_width=lambda layer: bool(layer.option("skip")),
    ),
    "mamba": CellFacts(
        "Δ,B,C = W·u of u = silu(conv(W·x));  S ← exp(ΔA)∘S + (Δ∘u)·Bᵀ;  y = (S·C + D∘u)∘silu(W·x)",
        2, _mamba_weights, _mamba_states, unseen=lambda _: ("conv", "ssm"),
        projection="free",
        options={
            "state_size": Option(16, "numbers of state for each of `hidden`", least=1),
            "conv_width": Option(4, "steps that the convolution sees", least=2),
            "dt_rank": Option(0, "rank of W_Δ; 0 is a sixteenth of the input's width"),
        },
    ),
}  # fmt: skip
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
