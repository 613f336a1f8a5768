"""The states of a model in its manifest: name, shape, type and initial value of each. No torch."""

from __future__ import annotations

from math import prod
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .parts import Name, Part, Size

MAX_STATES = 64
MAX_STATE_DIMENSIONS = 8
MAX_STATE_ELEMENTS = 1 << 24
MAX_INITIAL_STATES = 1024

INITIAL_PREFIX = "initial."

StateType = Literal[
    "float16", "float32", "float64", "bfloat16", "int32", "int64", "bool", "complex64"
]

RANGES: dict[str, tuple[float, float]] = {
    "float16": (-65504.0, 65504.0),
    "float32": (-(2 - 2.0**-23) * 2.0**127, (2 - 2.0**-23) * 2.0**127),
    "float64": (-(2 - 2.0**-52) * 2.0**1023, (2 - 2.0**-52) * 2.0**1023),
    "bfloat16": (-(2 - 2.0**-7) * 2.0**127, (2 - 2.0**-7) * 2.0**127),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "bool": (0, 1),
    "complex64": (-(2 - 2.0**-23) * 2.0**127, (2 - 2.0**-23) * 2.0**127),
}
"""Least and greatest number of each type. Those of complex64 are of its parts."""

WHOLE = ("int32", "int64", "bool")
"""Types without fractions."""


class StateDeclaration(Part):
    """One state tensor: its shape and type for one session, and the number that all its elements begin with.

    An initial state of other numbers is a stored tensor; see `InitialState`.

    The server refuses a step that leaves a NaN or an infinity in a state of floats. `finite=False` switches
    that check off for this state, such as a running minimum that is infinite at times. Outputs must be
    finite in any case.
    """

    later: ClassVar[tuple[str, ...]] = ("finite", "initial")

    name: Name
    shape: Annotated[tuple[Size, ...], Field(max_length=MAX_STATE_DIMENSIONS)]
    dtype: StateType = "float32"
    finite: bool = True
    initial: bool | int | float = 0

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if prod(self.shape) > MAX_STATE_ELEMENTS:
            raise ValueError(f"a state tensor may have {MAX_STATE_ELEMENTS} elements at most")
        return self

    @model_validator(mode="after")
    def _initial_fits(self) -> Self:
        least, most = RANGES[self.dtype]
        if self.dtype in WHOLE and self.initial != int(self.initial):
            raise ValueError(f"a state of {self.dtype} cannot begin with {self.initial}")
        if not least <= self.initial <= most:
            raise ValueError(
                f"a state of {self.dtype} begins with a number from {least} to {most}, not {self.initial}"
            )
        return self


class InitialState(Part):
    """Stored tensors with which the states of a session begin. Other states begin with their number.

    `name` is what a client chooses it by. The state with the name "" is that of sessions which choose none,
    and the named ones differ from it in `stored` only.
    """

    name: Name | Literal[""] = ""
    stored: Annotated[tuple[Name, ...], Field(max_length=MAX_STATES)]

    def key(self, state: str) -> str:
        """The name of a stored tensor in the package."""
        return INITIAL_PREFIX + (f"{self.name}.{state}" if self.name else state)


def check_initial(initial: tuple[InitialState, ...], states: tuple[StateDeclaration, ...]) -> None:
    """Checks that stored initial tensors are those of a model's states.

    Raises:
        ValueError: a name is unknown or not unique, or the state "" is not the first.
    """
    known = {state.name for state in states}
    names = [one.name for one in initial]
    if len(set(names)) < len(names):
        raise ValueError("two initial states have the same name")
    if "" in names[1:]:
        raise ValueError("the initial state without a name must be the first")
    keys = [one.key(state) for one in initial for state in one.stored]
    if len(set(keys)) < len(keys):
        raise ValueError("two tensors of initial states have the same name")
    for one in initial:
        if unknown := sorted(set(one.stored) - known):
            raise ValueError(
                f"there is no state {unknown[0]!r} to begin with a stored tensor, "
                + (f"only {', '.join(sorted(known))}" if known else "as the model has no state")
            )
