"""Puts the expressions of an output into one chain, from the input on."""

from __future__ import annotations

from dataclasses import dataclass

from carousel_models.errors import PackageError

from .values import Added, Expr, Selected, Source, Transformed


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
    return _until(expr, None)


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


def ending(elements: list[Element]) -> tuple[list[Element], list[Selected], list[Transformed]]:
    """The elements, and what follows them: a selection and a transform, each at most once."""
    selects: list[Selected] = []
    transforms: list[Transformed] = []
    elements = list(elements)
    if elements and isinstance(elements[-1], Selected):
        selects.append(elements.pop())  # type: ignore[arg-type]
    if elements and isinstance(elements[-1], Transformed):
        transforms.append(elements.pop())  # type: ignore[arg-type]
    for element in elements:
        if isinstance(element, Selected | Transformed):
            raise MisfitError(
                element.where,
                "it is in the middle of the model, and a manifest has it at the end only",
            )
    return elements, selects, transforms
