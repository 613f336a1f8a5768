"""Programs: step graphs in files, each run by its own runtime. No Python of a file's author runs here."""

from __future__ import annotations

from .interface import Port, Program, Signature
from .runtimes import RUNTIMES, Runtime, open_program, runtime_of

__all__ = ["RUNTIMES", "Port", "Program", "Runtime", "Signature", "open_program", "runtime_of"]
