"""The axes of a tensor while a graph is read: which is time, the batch, or the row. No torch.

An axis is a group of atoms, the factors of its size. So a Reshape joins or separates atoms, and a Transpose
moves groups. The empty group is an axis of size 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple


class Atom(NamedTuple):
    """A factor of an axis. `size` is None if the file leaves it open."""

    name: str
    size: int | None


Group = tuple[Atom, ...]
Axes = tuple[Group, ...]
Dim = int | Group
"""A dimension as a number, or as the group of an axis whose size is open."""


def dim_of(group: Group) -> Dim:
    """The size of an axis as a number, if it is known."""
    sizes = [atom.size for atom in group]
    known = [size for size in sizes if size is not None]
    return prod(known) if len(known) == len(sizes) else group


def size_of(group: Group) -> int | None:
    """The size of an axis, or None."""
    dim = dim_of(group)
    return dim if isinstance(dim, int) else None


def product(dims: Sequence[Dim]) -> Dim:
    """The product of dimensions. The product of a number above 1 and an open one has no exact form.

    Raises:
        ValueError: it has no exact form.
    """
    numbers = [dim for dim in dims if isinstance(dim, int)]
    groups = [dim for dim in dims if not isinstance(dim, int)]
    if groups and prod(numbers) != 1:
        raise ValueError("a size is a number times an open one")
    return tuple(atom for group in groups for atom in group) if groups else prod(numbers)


def reshaped(axes: Axes, target: Sequence[Dim], *, zero_copies: bool = True) -> Axes | None:
    """The axes after a Reshape, as ONNX defines it. None if a target splits an atom or is not clear.

    Args:
        axes: before.
        target: the new dimensions. −1 is what remains, and 0 copies the axis at the same place.
        zero_copies: 0 has that meaning.
    """
    wanted: list[Dim] = []
    for place, dim in enumerate(target):
        if dim == 0:
            if not zero_copies or place >= len(axes):
                return None
            wanted.append(axes[place])
        else:
            wanted.append(dim)
    atoms = [atom for group in axes for atom in group]
    open_at = wanted.index(-1) if -1 in wanted else len(wanted)
    first = _taken(atoms, wanted[:open_at])
    if first is None:
        return None
    found, atoms = first
    if open_at == len(wanted):
        if any(atom.size != 1 for atom in atoms):
            return None
        return tuple(found)
    last = _taken(atoms[::-1], [_backwards(dim) for dim in wanted[:open_at:-1]])
    if last is None:
        return None
    behind, atoms = last
    groups = [group[::-1] for group in behind[::-1]]
    return (*found, _joined(atoms[::-1]), *groups)


def _backwards(dim: Dim) -> Dim:
    return dim if isinstance(dim, int) else dim[::-1]


def _taken(atoms: list[Atom], wanted: Sequence[Dim]) -> tuple[list[Group], list[Atom]] | None:
    """Groups for the wanted dimensions from the front of the atoms, and the atoms that remain."""
    found: list[Group] = []
    for dim in wanted:
        count = _count(atoms, dim)
        if count is None:
            return None
        found.append(_joined(atoms[:count]))
        atoms = atoms[count:]
    return found, atoms


def _joined(atoms: Sequence[Atom]) -> Group:
    """One axis of several atoms. Those of size 1 disappear in it."""
    return tuple(atoms) if len(atoms) == 1 else tuple(atom for atom in atoms if atom.size != 1)


def _count(atoms: list[Atom], dim: Dim) -> int | None:
    """How many atoms make one dimension."""
    if not isinstance(dim, int):
        return len(dim) if tuple(atoms[: len(dim)]) == dim else None
    if dim == 1:
        return 1 if atoms and atoms[0].size == 1 else 0
    size = 1
    for count, atom in enumerate(atoms, 1):
        if atom.size is None:
            # A number that an exporter wrote for an axis which its input leaves open.
            return 1 if count == 1 else None
        size *= atom.size
        if size == dim:
            return count
    return None
