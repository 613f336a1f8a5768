"""What a tensor of an ONNX graph is to the reader of chains. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from carousel_models.errors import PackageError
from carousel_models.importing.ops import Activate, Array, Op, ToOutput
from carousel_models.spec import Select

from .axes import Atom, Axes, Dim, Group, size_of

Steps = Literal["all", "last", "first", "ends"]
"""Which rows of a sequence a tensor has. "ends": the last of one direction and the first of the other."""

NO_STEP = (
    "it joins the last row of one direction with the first of the other, and no step has both; give the "
    "model the rows of each step (Y)"
)


class NotAChainError(PackageError):
    """A part of the graph that a chain of layers cannot have."""


@dataclass(frozen=True, slots=True, eq=False)
class Const:
    """A tensor that is always the same."""

    array: Array


@dataclass(frozen=True, slots=True, eq=False)
class Dims:
    """Sizes of axes, a vector of integers. `scalar`: it is one of them, without an axis."""

    dims: tuple[Dim, ...]
    scalar: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """An array that is repeated along axes of open sizes. Its rank is that of the tensor."""

    array: Array


@dataclass(frozen=True, slots=True, eq=False)
class Unread:
    """A tensor that no chain has. `reason` is raised if the output needs it."""

    reason: NotAChainError


@dataclass(frozen=True, slots=True, eq=False)
class Final:
    """The last states of layers, as Y_c and what is made of such tensors. `parts`: each layer's Y_h."""

    parts: tuple[Rows, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class NormStage:
    """A step on the way to a norm that is written as single operations.

    Attributes:
        rows: the rows that are normalised.
        name: what it is of them: mean, centered, square, variance, shifted, deviation or inverse.
        centered: the mean was subtracted, as in a LayerNorm and not in an RMSNorm.
        eps: that was added to the variance.
    """

    rows: Rows
    name: str
    centered: bool
    eps: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """An input, or rows that operations made of it.

    Attributes:
        source: name of the graph's input.
        axes: of the tensor.
        tensor: its name.
        row: the atoms of a row, in their order. Empty while it is not known which axis of an input has rows.
        ops: the operations so far.
        tokens: it holds whole numbers, which no table was looked up with yet.
        embedding: the table that was.
        time: the axis that recurrent layers ran along.
        steps: which steps it has.
        turned: the axis whose order was turned round, as before a layer that runs backwards.
        part: a part of an input, such as one layer's initial state.
        piece: where it is one place of an axis: the rows with all places, the axis, and the place.
        final: a layer's last state, with no operation behind it.
        select: the selection at the end.
        below: the rows before the last operation or selection.
    """

    source: str
    axes: Axes
    tensor: str = ""
    row: Group = ()
    ops: tuple[Op, ...] = ()
    tokens: bool = False
    embedding: Array | None = field(default=None, repr=False)
    time: Atom | None = None
    steps: Steps = "all"
    turned: Atom | None = None
    part: bool = False
    piece: tuple[Rows, int, int] | None = field(default=None, repr=False)
    final: bool = False
    select: Select | None = None
    below: Rows | None = field(default=None, repr=False)

    @property
    def raw(self) -> bool:
        """True for an input, or a part of one, that no operation has changed."""
        return not self.ops and self.embedding is None and self.select is None

    @property
    def width(self) -> int | None:
        """Width of a row."""
        return size_of(self.row) if self.row else None

    def bound(self, axis: int = -1) -> Rows:
        """The same, with an axis that is known to have the rows.

        Raises:
            NotAChainError: another axis has them, or there are none.
        """
        if self.tokens:
            raise NotAChainError("it computes with tokens, which an embedding must look up first")
        if self.part:
            raise NotAChainError(
                "it takes a part of an input, or a step of a sequence that is neither the last nor the first"
            )
        if self.select is not None:
            raise NotAChainError("it computes with indices, and a selection is the model's end")
        if self.steps == "ends":
            raise NotAChainError(NO_STEP)
        if not self.axes:
            raise NotAChainError("its input has no axes")
        if self.row and self.axes[axis] != self.row:
            raise NotAChainError("it works along another axis than that of the rows")
        return replace(self, row=self.axes[axis])

    def then(self, op: Op, atom: Atom | None = None, axis: int = -1) -> Rows:
        """The rows behind one more operation. `atom`: of the new row, if that has another width."""
        rows = self.bound(axis)
        group = rows.row if atom is None else (atom,)
        axes = tuple(group if g == rows.row else g for g in rows.axes)
        return replace(
            rows, axes=axes, row=group, ops=(*rows.ops, op), below=rows, final=False, piece=None
        )

    def with_ops(self, ops: tuple[Op, ...], below: Rows | None = None) -> Rows:
        """The same axes with other operations."""
        return replace(self, ops=ops, below=below or self, final=False)

    def before_the_end(self) -> Rows:
        """The rows before the selection and the transform, as a package compares them."""
        rows = self
        if rows.select is not None:
            assert rows.below is not None
            rows = rows.below
        last = rows.ops[-1] if rows.ops else None
        if isinstance(last, ToOutput) or (isinstance(last, Activate) and last.name == "sigmoid"):
            assert rows.below is not None
            rows = rows.below
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class Above:
    """Which numbers of rows are above a threshold."""

    rows: Rows
    threshold: float


Value = Above | Const | Dims | Filled | Unread | Final | NormStage | Rows


def is_prefix(short: tuple[Op, ...], long: tuple[Op, ...]) -> bool:
    """True if a chain begins with the operations of another one."""
    pairs = zip(short, long, strict=False)
    return len(short) <= len(long) and all(one is other for one, other in pairs)
