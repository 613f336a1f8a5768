"""The rooms of the server, and which of them imports which."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from .sources import SERVER, Source, sources
from .structure import parts

Arrow = tuple[str, str]

_PACKAGE = SERVER.name


def rooms(root: Path) -> list[str]:
    """Names of the packages of the server, and of its modules that lie in none."""
    return [part.stem for part in parts(root)]


def arrows(root: Path) -> set[Arrow]:
    """Pairs of rooms of which the first imports the second, also inside functions and for types only."""
    known = set(rooms(root))
    found = set()
    for source in sources(root, SERVER):
        room = source.path.relative_to(SERVER).parts[0].removesuffix(".py")
        for module in imported(source):
            target = module.split(".")[1]
            if room in known and target in known and target != room:
                found.add((room, target))
    return found


def imported(source: Source) -> Iterator[str]:
    """Full names of the server's modules that a file imports."""
    package = (_PACKAGE, *source.path.relative_to(SERVER).parts[:-1])
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names: Iterable[str] = (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            names = (f"{origin}.{alias.name}" for alias in node.names)
        else:
            continue
        yield from (name for name in names if name.startswith(f"{_PACKAGE}."))


def circles(found: set[Arrow]) -> list[list[str]]:
    """Groups of rooms that import each other, directly or through others."""
    reached = _reached(found)
    groups = {
        tuple(sorted({room} | {other for other in reached[room] if room in reached[other]}))
        for room in reached
    }
    return [list(group) for group in sorted(groups) if len(group) > 1]


def levels(found: set[Arrow], known: Iterable[str]) -> int:
    """Length of the longest way down; rooms of one circle stand on one level."""
    circle = {room: tuple(group) for group in circles(found) for room in group}
    names = {room: circle.get(room, (room,)) for room in known}
    below = {(names[a], names[b]) for a, b in found if names[a] != names[b]}

    def depth(group: tuple[str, ...]) -> int:
        return 1 + max((depth(lower) for upper, lower in below if upper == group), default=0)

    return max(map(depth, names.values()), default=0)


def _reached(found: set[Arrow]) -> dict[str, set[str]]:
    reached: dict[str, set[str]] = {room: set() for arrow in found for room in arrow}
    for upper, lower in found:
        reached[upper].add(lower)
    for middle, further in reached.items():
        for targets in reached.values():
            if middle in targets:
                targets.update(further)
    return reached
