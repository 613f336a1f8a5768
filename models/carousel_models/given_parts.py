"""Parts of a stack as `save` takes them in a list, with what a package stores for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from .errors import PackageError
from .stack_parts import StackPart


@dataclass(frozen=True, slots=True)
class GivenPart:
    """A part with what a package stores for it.

    Attributes:
        part: its description.
        width: of the rows that it reads. 0 if it reads any.
        tensors: named as in `StackPart.weights`.
        modules: those that it was made from.
        files: of programs, by their names in the package.
    """

    part: StackPart
    width: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    modules: tuple[nn.Module, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def given_parts(stack: object) -> tuple[GivenPart, ...]:
    """The parts of a list of them, such as of `part`, of `program` and of descriptions without weights.

    Empty if it is something else, such as recurrent modules.

    Raises:
        PackageError: parts and modules are mixed.
    """
    if not isinstance(stack, Sequence) or not any(map(_is_part, stack)):
        return ()
    others = [type(one).__name__ for one in stack if not _is_part(one)]
    if others:
        raise PackageError(
            f"the stack mixes parts with a {others[0]}; give that one as part(NAME, …)"
        )
    return tuple(GivenPart(one) if isinstance(one, StackPart) else one for one in stack)


def files_of(parts: Sequence[GivenPart]) -> dict[str, bytes]:
    """The files of all programs, by their names in the package.

    Raises:
        PackageError: two different files have the same name.
    """
    found: dict[str, bytes] = {}
    for given in parts:
        for name, data in given.files.items():
            if found.setdefault(name, data) != data:
                raise PackageError(
                    f"two different files have the name {name!r}; rename one of them"
                )
    return found


def _is_part(one: object) -> bool:
    return isinstance(one, GivenPart | StackPart)
