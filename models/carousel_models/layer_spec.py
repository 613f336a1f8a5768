"""The manifest of one recurrent layer of the built-in stack. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, ClassVar, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from .cell_facts import FACTS, Cell, CellState, OptionValue, facts_of, option_value
from .parts import MAX_SIZE, Part, Size
from .row_parts import RowParts, leaves
from .states import MAX_STATE_ELEMENTS, StateDeclaration

MAX_LAYERS = 64

_PROJECTING = tuple(name for name, facts in FACTS.items() if facts.projection != "none")


class LayerSpec(Part):
    """One recurrent layer, and the parts around its cell.

    y = between(cell(before(x))); `residual` adds x; `layer_norm` normalises the row, with γ, β and an eps
    of 1e-5; then come the parts of `after`. `options` holds the cell's own options, those that differ from
    their defaults. A `backward` layer reads whole sequences from their end.
    """

    later: ClassVar[tuple[str, ...]] = ("before", "between", "after", "options", "backward")

    cell: Cell
    hidden: Size
    bias: bool = True
    bidirectional: bool = False
    proj_size: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    residual: bool = False
    layer_norm: bool = False
    before: RowParts = ()
    between: RowParts = ()
    after: RowParts = ()
    backward: bool = False
    options: dict[str, bool | Annotated[int, Field(le=MAX_SIZE)]] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _of_the_cell(
        cls, given: dict[str, OptionValue], info: ValidationInfo
    ) -> dict[str, OptionValue]:
        """Checks options, and leaves out those that have their default. So equal layers have one form."""
        if "cell" not in info.data:
            return given  # that is an error of its own
        cell = info.data["cell"]
        checked = {name: option_value(cell, name, value) for name, value in given.items()}
        options = facts_of(cell).options
        return {name: value for name, value in checked.items() if value != options[name].default}

    @model_validator(mode="after")
    def _projection_fits_the_cell(self) -> Self:
        projection = facts_of(self.cell).projection
        if self.proj_size and projection == "none":
            raise ValueError(
                f"proj_size is an option of {', '.join(_PROJECTING)} only; use 0 for other cells"
            )
        if self.proj_size >= self.hidden and projection != "free":
            raise ValueError("proj_size must be smaller than hidden")
        if self.bidirectional and self.backward:
            raise ValueError(
                "a layer is bidirectional or backward, not both; a bidirectional one has both ways"
            )
        facts_of(self.cell).check(self)
        return self

    @model_validator(mode="after")
    def _states_are_bounded(self) -> Self:
        for name, shape, _ in self.states:
            if prod(shape) > MAX_STATE_ELEMENTS:
                raise ValueError(
                    f"the state {name} of this {self.cell} would have {prod(shape):,} elements, more than "
                    f"the limit of {MAX_STATE_ELEMENTS:,}; choose smaller sizes"
                )
        return self

    def option(self, name: str) -> int:
        """The value of one of the cell's options. True is 1."""
        return self.options.get(name, facts_of(self.cell).options[name].default)

    @property
    def keeps_width(self) -> bool:
        """True if the cell's output must be as wide as its input."""
        return facts_of(self.cell).keeps_width(self)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Names of the states that may become infinite in a step whose outputs are finite."""
        return facts_of(self.cell).unseen(self)

    @property
    def direction_width(self) -> int:
        """Width of the rows that leave one direction of the cell: proj_size if there is one, else hidden."""
        return self.proj_size or self.hidden

    @property
    def causal(self) -> bool:
        """True if the layer's outputs depend on the past only."""
        return not (self.bidirectional or self.backward)

    @property
    def cell_width(self) -> int:
        """Width of the rows that leave the cell, in both directions."""
        return self.direction_width * (2 if self.bidirectional else 1)

    @property
    def joined_width(self) -> int:
        """Width of the rows before `residual` and `layer_norm`."""
        return leaves(self.between, self.cell_width)

    @property
    def width(self) -> int:
        """Width of the layer's output."""
        return leaves(self.after, self.joined_width)

    @property
    def states(self) -> tuple[CellState, ...]:
        """The states of one direction."""
        return facts_of(self.cell).states(self)


def leaves_layers(layers: Sequence[LayerSpec], width: int) -> int:
    """Width of the rows that leave layers one after the other.

    Raises:
        ValueError: a layer does not fit the rows that enter it.
    """
    for number, layer in enumerate(layers):
        entering = leaves(layer.before, width)
        if layer.keeps_width and layer.direction_width != entering:
            raise ValueError(
                f"layer {number} adds its input to its output ({layer.cell} with "
                f"{', '.join(layer.options)}) but their widths differ: {entering} in, "
                f"{layer.direction_width} out; choose proj_size or hidden so that they are equal"
            )
        if layer.residual and layer.joined_width != width:
            raise ValueError(
                f"layer {number} is residual but its widths differ: {width} in, {layer.joined_width} out"
            )
        width = layer.width
    return width


def states_of_layers(layers: Sequence[LayerSpec]) -> tuple[StateDeclaration, ...]:
    """The states of layers, named "0.h", "0.c", "1.h" and so on. Empty if one is not causal."""
    if not all(layer.causal for layer in layers):
        return ()
    return tuple(
        StateDeclaration(name=f"{number}.{name}", shape=shape, dtype=dtype)
        for number, layer in enumerate(layers)
        for name, shape, dtype in layer.states
    )


def uniform_stack(
    cell: Cell,
    layers: int,
    hidden: int,
    *,
    bias: bool = True,
    bidirectional: bool = False,
    proj_size: int = 0,
    options: Mapping[str, OptionValue] | None = None,
) -> tuple[LayerSpec, ...]:
    """`layers` equal layers, as torch's modules have them. `options`: those of the cell."""
    layer = LayerSpec(
        cell=cell, hidden=hidden, bias=bias, bidirectional=bidirectional, proj_size=proj_size,
        options=dict(options or {}),
    )  # fmt: skip
    return (layer,) * layers
