"""Puts the expressions of an output into one chain, from the input on."""

from __future__ import annotations

from dataclasses import dataclass

from carousel_models.errors import PackageError

from .values import Added, Expr, Foreign, Source


class MisfitError(PackageError):
    """A module that a manifest cannot describe.

    Attributes:
        where: the operation.
        why: the reason.
    """

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where
        self.why = why


@dataclass(frozen=True, slots=True)
class Skip:
    """x + elements(x)."""

    where: str
    elements: tuple[Element, ...]


Element = Expr | Skip


def chain_of(expr: Expr) -> list[Element]:
    """The elements from the input to an expression. The input itself is not among them.

    Raises:
        MisfitError: two branches are added of which neither is the input of the other.
    """
    foreign = first_foreign(expr, set())
    if foreign is not None:
        raise MisfitError(foreign.where, foreign.why)
    return _until(expr, None)


def first_foreign(expr: Expr, seen: set[Expr]) -> Foreign | None:
    """The first computation, in the order of computation, that has no part."""
    if expr in seen:
        return None
    seen.add(expr)
    for before in inputs_of(expr):
        found = first_foreign(before, seen)
        if found is not None:
            return found
    return expr if isinstance(expr, Foreign) else None


def inputs_of(expr: Expr) -> tuple[Expr, ...]:
    """What an expression is computed from."""
    if isinstance(expr, Foreign):
        return expr.inputs
    other = (expr.other,) if isinstance(expr, Added) else ()
    return (*(() if expr.x is None else (expr.x,)), *other)


def _until(expr: Expr, stop: Expr | None) -> list[Element]:
    """The elements behind `stop`, or from the input on."""
    elements: list[Element] = []
    while expr is not stop and not isinstance(expr, Source):
        if isinstance(expr, Added):
            short, long = _branches(expr)
            elements.append(Skip(expr.where, tuple(_until(long, short))))
            expr = short
        else:
            elements.append(expr)
            assert expr.x is not None
            expr = expr.x
    return elements[::-1]


def _branches(added: Added) -> tuple[Expr, Expr]:
    """The branch that is the input of the other, and the other."""
    one, two = added.x, added.other
    assert one is not None
    if one is two:
        raise MisfitError(added.where, "it adds rows to themselves; multiply by 2")
    if one in _ancestors(two):
        return one, two
    if two in _ancestors(one):
        return two, one
    raise MisfitError(
        added.where,
        "it adds two branches of which neither is the input of the other; a manifest has residuals only",
    )


def _ancestors(expr: Expr) -> set[Expr]:
    """All that the main chain of an expression goes through."""
    found: set[Expr] = set()
    step: Expr | None = expr
    while step is not None:
        found.add(step)
        step = _branches(step)[0] if isinstance(step, Added) else step.x
    return found
