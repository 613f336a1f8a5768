"""The manifest of a program: a step graph in a file of the package, which its own runtime runs. No torch."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from .parts import MAX_SIZE, Name, Part, Size
from .stack_parts import CONTEXT, StackPart
from .states import MAX_STATE_DIMENSIONS, MAX_STATE_ELEMENTS, MAX_STATES, StateDeclaration

MAX_CONSTANTS = 64

RuntimeName = Literal["onnx", "torchscript", "pt2"]
Dtype = Literal[
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool",
    "complex64",
]  # fmt: skip
Shape = Annotated[tuple[Size, ...], Field(max_length=MAX_STATE_DIMENSIONS)]
Axis = Annotated[int, Field(ge=0, le=MAX_STATE_DIMENSIONS)]
PortName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A name that the program gives to an input or an output. Any characters may be in it."""

DIGEST = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _check_elements(name: str, shape: tuple[int, ...]) -> None:
    if prod(shape) > MAX_STATE_ELEMENTS:
        raise ValueError(f"{name!r} may have {MAX_STATE_ELEMENTS} elements at most")


class ProgramPort(Part):
    """An input or an output of a program.

    `shape` is that of one session, without the batch axis. `axis` is where the batch axis stands among the
    program's dimensions.
    """

    name: PortName
    shape: Shape
    dtype: Dtype = "float32"
    axis: Axis = 0

    @property
    def elements(self) -> int:
        """Numbers of one session."""
        return prod(self.shape)

    @model_validator(mode="after")
    def _axis_is_there(self) -> Self:
        if self.axis > len(self.shape):
            raise ValueError(f"axis {self.axis} of {self.name!r} is beyond its dimensions")
        _check_elements(self.name, self.shape)
        return self


class ProgramState(StateDeclaration):
    """A state of a program: it enters as the input `enters`, and leaves as the output `leaves`.

    `axis` is where the batch axis stands among the program's dimensions, in and out.
    """

    enters: PortName
    leaves: PortName
    axis: Axis = 0

    @model_validator(mode="after")
    def _axis_is_there(self) -> Self:
        if self.axis > len(self.shape):
            raise ValueError(f"axis {self.axis} of state {self.name!r} is beyond its dimensions")
        return self


class ProgramConstant(Part):
    """An input that is the same number in every step, such as a sample rate."""

    name: PortName
    value: bool | int | float
    shape: Shape = ()
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        _check_elements(self.name, self.shape)
        return self


class ProgramPart(StackPart):
    """A step graph as a part of a stack.

    `file` lies in the package, and `sha256` is its hash. `batch` says how it takes sessions: "symbolic" if
    the batch axis may have any length, "one" if each session is a call of its own. With `context`, the last
    so many numbers of the rows before stand in front of each row. `carried` are the program's states.
    """

    kind: Literal["program"] = "program"
    runtime: RuntimeName
    file: Name
    sha256: DIGEST
    input: ProgramPort
    output: ProgramPort
    carried: Annotated[tuple[ProgramState, ...], Field(max_length=MAX_STATES)]
    constants: Annotated[tuple[ProgramConstant, ...], Field(max_length=MAX_CONSTANTS)] = ()
    context: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    batch: Literal["symbolic", "one"] = "symbolic"

    def leaves(self, *widths: int) -> int:
        """Width of the output row: the output's elements, flattened.

        Raises:
            ValueError: the rows and the context are not the program's input.
        """
        width = sum(widths)
        if width + self.context != self.input.elements:
            raise ValueError(
                f"{self.foreign} reads {self.input.elements} numbers a step, but its rows have {width}"
                + (f" and its context {self.context}" if self.context else "")
            )
        return self.output.elements

    def states(self, width: int = 0) -> tuple[StateDeclaration, ...]:  # noqa: ARG002 - as all have it
        """The program's states, and the context."""
        context = (StateDeclaration(name=CONTEXT, shape=(self.context,)),) if self.context else ()
        return (*self.carried, *context)

    @property
    def foreign(self) -> str:
        """The program, by its file."""
        return f"program {self.file!r}"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.output.elements > MAX_SIZE:
            raise ValueError(
                f"the output {self.output.name!r} has {self.output.elements} numbers, of at most {MAX_SIZE}"
            )
        if self.context >= self.input.elements:
            raise ValueError("the context must be smaller than the program's input")
        names = [state.name for state in self.states()]
        if len(set(names)) < len(names):
            raise ValueError("two states of a program have the same name")
        enters = [
            self.input.name,
            *(s.enters for s in self.carried),
            *(c.name for c in self.constants),
        ]
        leaves = [self.output.name, *(s.leaves for s in self.carried)]
        for ports in (enters, leaves):
            if twice := sorted(name for name in set(ports) if ports.count(name) > 1):
                raise ValueError(f"{twice[0]!r} of {self.foreign} is used twice")
        return self
