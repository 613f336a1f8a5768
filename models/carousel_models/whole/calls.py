"""One recorded operation, with what is known of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from .values import Constant, Ends, Expr, Expressions, Memory, Rows, Unknown, Value

Result = Value | tuple[Any, ...]
"""A value, or a tuple of values and tuples."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the run: the batch and the steps."""

    batch: int
    steps: int


@dataclass(frozen=True, slots=True)
class Call:
    """An operation.

    Attributes:
        name: of the function or method, or of the module's class.
        args: by place; values instead of tensors.
        kwargs: by name.
        node: where it was recorded.
        sizes: of the run.
        expressions: makes expressions.
        result: one of several results, if the call is about that one alone.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    node: fx.Node
    sizes: Sizes
    expressions: Expressions
    result: Any = None

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or name."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    def rest(self, place: int, name: str) -> tuple[Any, ...]:
        """The arguments from a place on, given one by one or as one sequence."""
        if place >= len(self.args):
            return tuple(self.kwargs.get(name, ()))
        first = self.args[place]
        return tuple(first) if isinstance(first, tuple | list) else self.args[place:]

    @property
    def where(self) -> str:
        """The operation for people: its module, its name, its line of code."""
        module = self.node.meta.get("module")
        path, line = self.node.meta.get("path", ""), self.node.meta.get("line", "")
        what = f"{self.node.target} ({type(module).__name__})" if module is not None else self.name
        inside = f" in {path}" if path and module is None else ""
        return f"{what}{inside}" + (f", at {line}" if line else "")

    @property
    def module(self) -> nn.Module:
        """The module of a call of one."""
        module = self.node.meta["module"]
        assert isinstance(module, nn.Module)
        return module

    @property
    def value(self) -> Any:
        """The recorded result, or the part of it that is looked at."""
        return self.node.meta["value"] if self.result is None else self.result

    def unknown(self, why: str) -> Unknown:
        """A result that a manifest cannot describe."""
        values = flat((self.args, self.kwargs))
        inputs = tuple(v.expr for v in values if isinstance(v, Rows | Ends | Memory))
        return Unknown(self.where, why, tuple(dict.fromkeys(inputs)))

    def expr(self, kind: type[Expr], x: Expr, width: int, *key: Any, **fields: Any) -> Any:
        """An expression of a class; its fields are known by `key`."""
        return self.expressions.of(
            (kind.__name__, x, width, *key),
            lambda: kind(where=self.where, x=x, width=width, **fields),
        )

    def size_of(self, axis: str, rows: Rows) -> int:
        """Size of an axis in the run."""
        return {"B": self.sizes.batch, "T": self.sizes.steps, "F": rows.width}[axis]


Handler = Callable[[Call], Result]


def flat(part: Any) -> Iterator[Value]:
    """All values in nested arguments."""
    if isinstance(part, Value):
        yield part
    elif isinstance(part, tuple | list):
        for one in part:
            yield from flat(one)
    elif isinstance(part, dict):
        yield from flat(tuple(part.values()))
    elif isinstance(part, slice):
        yield from flat((part.start, part.stop, part.step))


def constant(result: Any) -> Result:
    """A result that does not depend on the input."""
    if isinstance(result, tuple | list):
        return tuple(constant(part) for part in result)
    return Constant(result) if isinstance(result, Tensor) else result
