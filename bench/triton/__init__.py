"""NVIDIA's side of the comparison: its load generator, and its server with a model like ours.

Both come from public wheels and are unpacked into a folder; nothing is installed, and no Docker is needed.
"""

from .load import Load, LoadFailedError, LoadResult, run_load
from .server import TritonServer, missing
from .wheels import unpacked

__all__ = [
    "Load",
    "LoadFailedError",
    "LoadResult",
    "TritonServer",
    "missing",
    "run_load",
    "unpacked",
]
