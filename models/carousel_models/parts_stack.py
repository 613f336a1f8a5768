"""Parts as one recurrent stack."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from .cells import State
from .stack import RecurrentStack, StateSpec
from .stack_parts import Placed


class PartsStack:
    """Parts, each of which reads the rows of earlier ones. Each part is a stack with its own states.

    Args:
        placed: what the manifest says.
        stacks: one for each part.
    """

    def __init__(self, placed: Sequence[Placed], stacks: Sequence[RecurrentStack]) -> None:
        self._names = [one.part.name for one in placed]
        self._stacks = tuple(stacks)
        self._sources = [one.sources for one in placed]
        ends = list(accumulate((len(stack.state_specs) for stack in stacks), initial=0))
        self._slices = [slice(*bounds) for bounds in pairwise(ends)]

    @property
    def state_specs(self) -> tuple[StateSpec, ...]:
        """The states of all parts, each named "<part>.<state>"."""
        return tuple(
            spec._replace(name=f"{name}.{spec.name}")
            for name, stack in zip(self._names, self._stacks, strict=True)
            for spec in stack.state_specs
        )

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """Those of the parts, and all others that must be finite of parts before the last one.

        The rows of a part are not outputs. A later part may turn an infinity in them into finite numbers.
        """
        found = set()
        for stack, states in zip(self._stacks, self._slices, strict=True):
            last = stack is self._stacks[-1]
            unseen = stack.unseen_states if last else range(len(stack.state_specs))
            found |= {states.start + place for place in unseen if stack.state_specs[place].finite}
        return tuple(sorted(found))

    @property
    def batch_invariant(self) -> bool:
        """True if all parts are."""
        return all(stack.batch_invariant for stack in self._stacks)

    @property
    def half(self) -> bool:
        """True if a part computes with 16 bits."""
        return any(stack.half for stack in self._stacks)

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of each part, in order."""
        rows, new = [x], list[Tensor]()
        for stack, places, states in zip(self._stacks, self._sources, self._slices, strict=True):
            y, after = stack.step(_joined(rows, places), state[states], slots)
            rows.append(y)
            new.extend(after)
        return rows[-1], tuple(new)

    def sequence(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        """All steps of each part, part by part."""
        found, new = [rows], list[Tensor]()
        for stack, places, states in zip(self._stacks, self._sources, self._slices, strict=True):
            y, after = stack.sequence(_joined(found, places), sizes, state[states])
            found.append(y)
            new.extend(after)
        return found[-1], tuple(new)


def _joined(rows: Sequence[Tensor], places: Sequence[int]) -> Tensor:
    if len(places) == 1:
        return rows[places[0]]
    return torch.cat([rows[place] for place in places], dim=-1)
