"""States on the command line: a name to choose, a file to begin with, and a table to look at."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from .exits import usage_error
from .printing import Record

if TYPE_CHECKING:
    import carousel

COLUMNS = ("name", "dtype", "shape", "bytes", "least", "most")

Initial = Annotated[
    str,
    typer.Option(
        "--initial",
        metavar="NAME",
        help="Begin with this initial state of the model. `carousel models show` lists them.",
    ),
]


def check_new(initial: str, session: str | None) -> None:
    """Refuses to choose an initial state for a session that is open. Raises CliError."""
    if initial and session is not None:
        raise usage_error(
            f"session {session} is open, so it has begun",
            "leave out --initial, or leave out --session for a new session",
        )


def read_states(file: Path) -> dict[str, Any]:
    """The arrays of an .npz file by name.

    Raises:
        CliError: it is not such a file.
    """
    import numpy as np

    fix = "give a file from `carousel sessions state ID FILE`, or from numpy.savez"
    if not zipfile.is_zipfile(file):
        raise usage_error(f"{file} is not an .npz file", fix)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise usage_error(f"{file} is not an .npz file", fix) from error


def write_states(file: Path, states: Mapping[str, Any]) -> None:
    """Writes arrays by name as an .npz file, whatever its name ends with."""
    import numpy as np

    with file.open("wb") as opened:
        np.savez(opened, **states)


class State(Protocol):
    """A state as a server or a manifest describes it."""

    @property
    def name(self) -> str:
        """Such as "0.h"."""

    @property
    def dtype(self) -> str:
        """Its name, such as "float32", or NumPy's type string."""

    @property
    def shape(self) -> tuple[int, ...]:
        """For one session."""


def described(states: Iterable[State]) -> str:
    """Names, types and shapes, such as "0.h:float32[16]"."""
    return ", ".join(f"{s.name}:{type_name(s.dtype)}{list(s.shape)}" for s in states)


def type_name(dtype: str) -> str:
    """The name of a type, from itself or from NumPy's type string."""
    import numpy as np

    return dtype if dtype.isalnum() else str(np.dtype(dtype).name)


def of_states(info: carousel.ModelInfo, states: Mapping[str, Any]) -> list[Record]:
    """The states of a session as records, with the range of their numbers."""
    kinds = {state.name: type_name(state.dtype) for state in info.states}
    return [
        {
            "name": name,
            "dtype": kinds.get(name, array.dtype.name),
            "shape": list(array.shape),
            "bytes": array.nbytes,
            "least": _number(array, "min"),
            "most": _number(array, "max"),
        }
        for name, array in states.items()
    ]


def _number(array: Any, which: str) -> float | int | bool | None:
    """The least or greatest number. None for complex ones, which have no order."""
    if array.dtype.kind == "c" or not array.size:
        return None
    found: float | int | bool = getattr(array, which)().item()
    return found
