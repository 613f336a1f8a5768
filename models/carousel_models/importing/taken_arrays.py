"""Arrays of a file as a map names them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from carousel_models.errors import PackageError

from .array_files import ArrayFile
from .ops import Array
from .weights_map import Arrays, Ref

SHOWN = 12
"""Names in an error, at most."""


class TakenArrays:
    """Reads arrays of a file, and remembers which."""

    def __init__(self, file: ArrayFile) -> None:
        self._file = file
        self._used: set[str] = set()

    def array(self, given: Arrays, place: str, *dims: int, transpose: bool = False) -> Array:
        """An array of the file, as the map says it.

        Args:
            given: its name, or several names.
            place: where the map names it.
            dims: numbers of dimensions that it may have.
            transpose: True if the table around it says so.

        Raises:
            PackageError: the file has no such array, or it has another number of dimensions.
        """
        ref = given if isinstance(given, Ref) else Ref(array=given)
        names = (ref.array,) if isinstance(ref.array, str) else ref.array
        parts = [self._one(name, place, dims) for name in names]
        if transpose if ref.transpose is None else ref.transpose:
            parts = [part.T for part in parts]
        if len({part.shape[1:] for part in parts}) != 1:
            shapes = ", ".join(f"{n} {list(p.shape)}" for n, p in zip(names, parts, strict=True))
            raise PackageError(
                f"{place} joins {shapes}; give arrays of equal sizes, or transpose them"
            )
        return np.concatenate(parts)

    def optional(
        self, given: Arrays | None, place: str, *dims: int, transpose: bool = False
    ) -> Array | None:
        """An array, or None if the map has none."""
        return None if given is None else self.array(given, place, *dims, transpose=transpose)

    def check_rest(self, ignored: Sequence[str]) -> None:
        """Raises PackageError for arrays that neither a part of the map nor `ignored` names."""
        rest = [
            name
            for name in self._file.names
            if name not in self._used and not any(fnmatchcase(name, one) for one in ignored)
        ]
        if rest:
            raise PackageError(
                f"the map does not use the arrays {_listed(rest)}; name them, or put them into `ignore`"
            )

    def _one(self, name: str, place: str, dims: tuple[int, ...]) -> Array:
        if name not in self._file.names:
            raise PackageError(
                f"{place} is {name!r}, and the file has {_listed(self._file.names)}; correct the name"
            )
        self._used.add(name)
        array = self._file.read(name)
        if array.ndim not in dims:
            wanted = " or ".join(map(str, dims))
            raise PackageError(
                f"{place}, array {name!r}, is {list(array.shape)}; give one of {wanted} dimensions"
            )
        return array


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
