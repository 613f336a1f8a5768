"""The manifests of parts that join the rows of several sources. No torch."""

from __future__ import annotations

from typing import Literal

from .stack_parts import StackPart


class ConcatPart(StackPart):
    """The joined rows themselves, for a head that reads several parts."""

    kind: Literal["concat"] = "concat"

    def leaves(self, *widths: int) -> int:
        """All widths together."""
        return sum(widths)


class AddPart(StackPart):
    """The sum of rows of equal width."""

    kind: Literal["add"] = "add"

    def leaves(self, *widths: int) -> int:
        """The width of each.

        Raises:
            ValueError: they differ, or there is one only.
        """
        if len(widths) < 2 or len(set(widths)) > 1:
            raise ValueError(
                f"it adds rows of equal width, but `from` gives rows of {_listed(widths)}"
            )
        return widths[0]


class MultiplyPart(StackPart):
    """The first row times the second, number by number.

    A first row that is twice as wide holds real parts and then imaginary parts. Each complex number is then
    scaled by a number of the second row, as a spectrum by a mask.
    """

    kind: Literal["multiply"] = "multiply"

    def leaves(self, *widths: int) -> int:
        """The width of the first.

        Raises:
            ValueError: there are not two, or the second is neither as wide as the first nor half as wide.
        """
        if len(widths) != 2 or widths[0] not in (widths[1], 2 * widths[1]):
            raise ValueError(
                "it multiplies two rows, the second as wide as the first or half as wide, but `from` gives "
                f"rows of {_listed(widths)}"
            )
        return widths[0]


def _listed(widths: tuple[int, ...]) -> str:
    return " and ".join(map(str, widths))
