"""What the values of a run are, in terms of the input's rows.

An expression says how a row is computed from the row of the same step, and from earlier ones through
recurrent layers. A value is the tensor of an expression: its axes, and the step if it is of one step only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from carousel_models.row_parts import RowPart
from carousel_models.spec import Select, Transform
from carousel_models.stack_parts import StackPart

Axes = tuple[tuple[str, ...], ...]
"""One entry for each dimension: the axes that are joined in it. B is the batch, T the steps, F the row. A
dimension of size 1 without a meaning has none."""


@dataclass(frozen=True, eq=False, slots=True)
class Expr:
    """Rows. `where` names the operation, and `x` is what it is computed from. Compared by identity."""

    where: str
    x: Expr | None
    width: int


@dataclass(frozen=True, eq=False, slots=True)
class Source(Expr):
    """The input: features of `width`, or tokens, whose `width` is 0."""


@dataclass(frozen=True, eq=False, slots=True)
class Embedded(Expr):
    """Rows of a table [vocabulary, width], by tokens."""

    table: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Affine(Expr):
    """Each number + - * or / a constant of its own, by `sign`."""

    sign: str
    constant: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Computed(Expr):
    """A part of a manifest, and its tensors by name."""

    part: RowPart
    tensors: dict[str, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class Recurrent(Expr):
    """A recurrent module or cell. `initial` has its state before the first step, [layers, width], or none."""

    module: nn.Module
    initial: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Added(Expr):
    """x + other."""

    other: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Transformed(Expr):
    """A transform of the output."""

    transform: Transform


@dataclass(frozen=True, eq=False, slots=True)
class Selected(Expr):
    """A selection of the output; `field` is one of its fields."""

    select: Select
    field: str


@dataclass(frozen=True, eq=False, slots=True)
class Foreign(Expr):
    """Rows that a custom module can compute and a manifest cannot describe. `x` is None.

    Attributes:
        why: a manifest cannot describe them.
        inputs: what they are computed from.
        code: the computation in Python, with {0}, {1} and so on for the inputs. "" if it is not known.
        joins: the kind of part that joins the inputs so in a chain of parts. None if there is none.
    """

    why: str
    inputs: tuple[Expr, ...]
    code: str = ""
    joins: type[StackPart] | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor of rows. `time` is the step that it has if no axis is T."""

    expr: Expr
    axes: Axes
    time: int | None = None

    @property
    def width(self) -> int:
        """Size of F."""
        return self.expr.width

    def at(self, name: str) -> int | None:
        """The dimension that is this axis alone. None if there is none."""
        return self.axes.index((name,)) if (name,) in self.axes else None


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that does not depend on the input."""

    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Ends:
    """The state h of several layers after a step, [layers × directions, B, F]."""

    expr: Recurrent
    time: int
    count: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The state c after a step."""

    expr: Recurrent
    time: int


@dataclass(frozen=True, slots=True)
class Packed:
    """The data of a packed sequence in which all sequences have all steps."""

    rows: Rows


@dataclass(frozen=True, slots=True)
class Filling:
    """A constant tensor into which steps are written: dimension `dim` is the time."""

    dim: int
    steps: dict[int, Rows]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that a manifest cannot describe: the operation, why, and the rows that went into it."""

    where: str
    why: str
    inputs: tuple[Expr, ...] = ()


Value = Rows | Constant | Ends | Memory | Packed | Filling | Unknown


@dataclass(slots=True)
class Expressions:
    """Makes each expression once, so that the same computation at another step is the same object."""

    made: dict[Any, Any] = field(default_factory=dict)

    def of(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The expression of a key. Parameters in a key are known by their memory, other
        tensors by their numbers.
        """
        return self.made.setdefault(tuple(map(_key, key)), None) or self._put(key, make())

    def _put(self, key: tuple[Any, ...], made: Any) -> Any:
        self.made[tuple(map(_key, key))] = made
        return made


def _key(part: Any) -> Any:
    if isinstance(part, Tensor):
        place = tuple(part.shape), part.dtype
        if isinstance(part, nn.Parameter):
            return *place, part.data_ptr(), part.stride()
        return *place, part.detach().cpu().double().numpy().tobytes()  # made anew at each step
    if isinstance(part, Expr | nn.Module):
        return id(part)
    return part if isinstance(part, str | int | float | bool | None) else repr(part)
