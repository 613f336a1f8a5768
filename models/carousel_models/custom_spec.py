"""The manifest of a custom module: its import name, its options and its states. No torch."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from .parts import Part, Size
from .states import MAX_STATES, StateDeclaration


class CustomSpec(Part):
    """A torch module instead of the built-in stack.

    `module` is "package.module:Class". It is constructed with `kwargs` and must have
    `step(x, state) -> (y, state)` with x float32[B, input width], y float32[B, width] and one state
    tensor [B, *shape] per entry of `states`. Its weights are stored as `custom.<state_dict key>`.
    """

    module: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", max_length=256)
    ]
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    states: Annotated[tuple[StateDeclaration, ...], Field(max_length=MAX_STATES)]
    width: Size

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        if len({state.name for state in self.states}) != len(self.states):
            raise ValueError("two states of a custom module have the same name")
        return self
