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


class BranchError(Exception):
    """Rows that a stack of layers cannot describe, and a chain of parts may: they branch and join."""


@dataclass(frozen=True, slots=True)
class Skip:
    """x + elements(x)."""

    elements: tuple[Element, ...]


Element = Expr | Skip


def chain_of(expr: Expr) -> list[Element]:
    """The elements from the input to an expression. The input itself is not among them.

    Raises:
        MisfitError: a computation has no part.
        BranchError: the rows are no chain of layers with residuals.
    """
    foreign = _foreign(expr, set())
    for one in foreign:
        if one.joins is None:
            raise MisfitError(one.where, one.why)
    if foreign:
        raise BranchError
    return _until(expr, None)


def _foreign(expr: Expr, seen: set[Expr]) -> list[Foreign]:
    """The computations that have no part of a row, in the order of computation."""
    if expr in seen:
        return []
    seen.add(expr)
    found = [one for before in inputs_of(expr) for one in _foreign(before, seen)]
    return [*found, expr] if isinstance(expr, Foreign) else found


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
            elements.append(Skip(tuple(_until(long, short))))
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
        raise BranchError
    if one in _ancestors(two):
        return one, two
    if two in _ancestors(one):
        return two, one
    raise BranchError


def _ancestors(expr: Expr) -> set[Expr]:
    """All that the main chain of an expression goes through."""
    found: set[Expr] = set()
    step: Expr | None = expr
    while step is not None:
        found.add(step)
        step = _branches(step)[0] if isinstance(step, Added) else step.x
    return found
