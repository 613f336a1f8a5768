"""The manifest of a stack made of parts, which read the rows of earlier parts. No torch.

A kind of part is a subclass of `StackPart`, a member of `spec.AnyStackPart`, and a builder in
`building.BUILDERS`. Its tensors are `parts.<part>.<tensor>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field, StringConstraints

from .cell_facts import Weight
from .parts import MAX_SIZE, Part
from .states import MAX_STATES, StateDeclaration

SOURCE = "input"
"""The name of the stack's own input among the sources of its parts."""

CONTEXT = "context"
"""The name of a part's state that holds what it reads of the rows before."""

MAX_PARTS = 64

PartName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class StackPart(Part):
    """Base class of a stack's parts: a name, and the rows that it reads.

    `from` names earlier parts or "input". Rows of several are joined, in this order. Without it, the part
    reads the one before, and the first part reads the input.
    """

    model_config = ConfigDict(populate_by_name=True)

    name: PartName
    from_: Annotated[tuple[PartName, ...], Field(alias="from", max_length=MAX_PARTS)] = ()

    def leaves(self, *widths: int) -> int:
        """Width of its output for rows of these widths, one of each source.

        Raises:
            ValueError: it cannot read such rows.
        """
        raise NotImplementedError

    def states(self, width: int) -> tuple[StateDeclaration, ...]:  # noqa: ARG002 - some kinds have some
        """Its states for joined rows of `width`. The stack's names are "<part>.<state>"."""
        return ()

    def weights(self, width: int) -> dict[str, Weight]:  # noqa: ARG002 - some kinds have some
        """The tensors that the package stores for it, for joined rows of `width`."""
        return {}

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of its layers, or its kind if it has none."""
        return (getattr(self, "kind"),)  # noqa: B009 - each kind declares it

    @property
    def foreign(self) -> str:
        """Names the part if its code is not Carousel's, such as "program 'vad.onnx'". "" otherwise."""
        return ""


class Placed(NamedTuple):
    """A part and where it stands.

    Attributes:
        part: the part.
        sources: the places that it reads. 0 is the input of the stack, and n + 1 is part n.
        widths: of the rows of each source.
        leaving: width of its output rows.
    """

    part: StackPart
    sources: tuple[int, ...]
    widths: tuple[int, ...]
    leaving: int

    @property
    def entering(self) -> int:
        """Width of the joined rows."""
        return sum(self.widths)


def place(parts: Sequence[StackPart], width: int) -> tuple[Placed, ...]:
    """Parts with their sources and widths, in order.

    Args:
        parts: one or more.
        width: of the rows that enter the stack.

    Raises:
        ValueError: the parts do not fit together. It names the part.
    """
    widths, found = [width], list[Placed]()
    for part, places in zip(parts, _sources(parts), strict=True):
        given = tuple(widths[place] for place in places)
        if sum(given) > MAX_SIZE:
            raise ValueError(
                f"part {part.name!r} would read {sum(given)} numbers, of at most {MAX_SIZE}"
            )
        found.append(Placed(part, places, given, _leaving(part, given)))
        widths.append(found[-1].leaving)
    return tuple(found)


def _leaving(part: StackPart, widths: tuple[int, ...]) -> int:
    """Width of a part's output.

    Raises:
        ValueError: it does not fit its sources. It names the part.
    """
    try:
        leaving = part.leaves(*widths)
    except ValueError as error:
        raise ValueError(f"part {part.name!r}: {error}") from error
    if leaving > MAX_SIZE:
        raise ValueError(f"part {part.name!r} would give {leaving} numbers, of at most {MAX_SIZE}")
    return leaving


def part_states(parts: Sequence[StackPart], width: int) -> tuple[StateDeclaration, ...]:
    """The states of all parts, each named "<part>.<state>".

    Raises:
        ValueError: there are too many, or a name is too long.
    """
    found = tuple(
        StateDeclaration(
            name=f"{one.part.name}.{state.name}",
            **{n: getattr(state, n) for n in StateDeclaration.model_fields if n != "name"},
        )
        for one in place(parts, width)
        for state in one.part.states(one.entering)
    )
    if len(found) > MAX_STATES:
        raise ValueError(f"the parts have {len(found)} states, of at most {MAX_STATES}")
    return found


def _sources(parts: Sequence[StackPart]) -> list[tuple[int, ...]]:
    places = {SOURCE: 0}
    found = []
    for number, part in enumerate(parts):
        unknown = [name for name in part.from_ if name not in places]
        if unknown:
            raise ValueError(
                f"part {part.name!r} reads from {unknown[0]!r}, which is not an earlier part; "
                f"there are {', '.join(places)}"
            )
        if part.name in places:
            raise ValueError(f"two parts have the name {part.name!r}")
        found.append(tuple(places[name] for name in part.from_) or (number,))
        places[part.name] = number + 1
    read = {place for part in found for place in part}
    for part in parts[:-1]:
        if places[part.name] not in read:
            raise ValueError(f"no part reads from {part.name!r}, and it is not the last one")
    return found
