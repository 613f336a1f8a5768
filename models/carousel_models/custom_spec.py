"""The manifest of a custom module: its import name, its options and its states. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from .parts import Name, Part, Size

MAX_STATES = 64
MAX_STATE_DIMENSIONS = 8
MAX_STATE_ELEMENTS = 1 << 24


class StateDeclaration(Part):
    """One state tensor of a custom module: its shape for one session.

    The server refuses a step that leaves a NaN or an infinity in a float state. `finite=False` switches
    that check off for this state, such as a running minimum that is infinite at times. Outputs must be
    finite in any case.
    """

    name: Name
    shape: Annotated[tuple[Size, ...], Field(max_length=MAX_STATE_DIMENSIONS)]
    dtype: Literal["float32", "bfloat16", "int32", "int64"] = "float32"
    finite: bool = True

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        elements = 1
        for size in self.shape:
            elements *= size
        if elements > MAX_STATE_ELEMENTS:
            raise ValueError(f"a state tensor may have {MAX_STATE_ELEMENTS} elements at most")
        return self

    @model_serializer(mode="wrap")
    def _without_the_default(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out `finite` where it is true, so that fingerprints of older packages stay the same."""
        fields: dict[str, Any] = write(self)
        if self.finite:
            del fields["finite"]
        return fields


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
