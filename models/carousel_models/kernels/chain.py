"""Packed layers in a chain. The gates of each write the operand of the next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.cells import State

from .packed import After, Given, PackedLayer, pack


class PackedLink(NamedTuple):
    """A layer, and what follows it; see `interface.Link`."""

    layer: PackedLayer
    residual: bool = False
    norm: tuple[Tensor, Tensor] | None = None


class Chain:
    """A step of all layers: one launch at the start, then a product and a launch for each layer.

    A norm costs two more launches, and the textbook's gru two. Implements `interface.Step`.
    """

    def __init__(self, links: Sequence[PackedLink], states: Sequence[int]) -> None:
        """`states` counts the state tensors of each layer."""
        self._links = tuple(links)
        ends = [sum(states[:n]) for n in range(len(states) + 1)]
        self._parts = [slice(*bounds) for bounds in pairwise(ends)]

    def __call__(
        self, x: Tensor, state: State, slots: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See `interface.Step`."""
        x, state = _rowwise(x), tuple(map(_rowwise, state))
        parts = [state[part] for part in self._parts]
        after = self._after(0, len(x), parts)
        pack(x, slots, after)
        new: list[Tensor] = []
        for number, (link, part) in enumerate(zip(self._links, parts, strict=True)):
            last = number + 1 == len(parts)
            following = None if last else self._after(number + 1, len(x), parts)
            handed_on = following if link.norm is None else None
            given = Given(part, slots, x if link.residual else None, handed_on)
            x, part_new = link.layer.step(after.operand, given)
            new.extend(part_new)
            if link.norm is not None:
                x = F.layer_norm(x, x.shape[-1:], *link.norm)
                if following is not None:
                    pack(x, slots, following)
            after = following or after
        return x, tuple(new)

    def _after(self, number: int, rows: int, parts: Sequence[State]) -> After:
        return After(self._links[number].layer.operand(rows), parts[number][0])


def _rowwise(tensor: Tensor) -> Tensor:
    """Rows with contiguous elements, as `gates` reads them."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
