"""A process whose wall clock is wrong."""

from __future__ import annotations

from pathlib import Path

_SHIFTED_CLOCK = """
import os, time

_real = time.time


def _shifted():
    with open(os.environ["CLOCK_SHIFT_FILE"]) as file:
        return _real() + float(file.read())


time.time = _shifted

# gRPC compares Python's clock with that of its native part, which has the true one.
import types
from grpc._cython import cygrpc

cygrpc.time = types.SimpleNamespace(**{**vars(time), "time": _real})
"""


class ShiftedClock:
    """The wall clock of a server process; Python runs `sitecustomize` before anything else."""

    def __init__(self, folder: Path, shift_s: float = 0.0) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SHIFTED_CLOCK, encoding="utf-8")
        self._file = folder / "shift"
        self.environment = {"PYTHONPATH": str(folder), "CLOCK_SHIFT_FILE": str(self._file)}
        self.shift(shift_s)

    def shift(self, seconds: float) -> None:
        """It is off by so much from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(repr(seconds), encoding="ascii")
        new.replace(self._file)
