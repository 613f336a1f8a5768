"""The Carousel SDK: sessions with recurrent models on a server, NumPy in and out.

    import carousel

    with carousel.Client("localhost:50051") as client:
        with client.session("sunspots-gru") as session:  # h (and c) live on the server
            y = session.step(x)

AsyncClient is the same with `async`. `carousel.exceptions` has the tree of errors, and `carousel.testing` a
server for your own tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import exceptions
from ._version import __version__
from .exceptions import *  # noqa: F403

if TYPE_CHECKING:
    from ._async.batch import AsyncBatch
    from ._async.client import AsyncClient
    from ._async.generation import AsyncGeneration
    from ._async.session import AsyncSession
    from ._core.retry import RetryPolicy
    from ._core.statistics import ClientStatistics
    from ._sync.batch import Batch
    from ._sync.client import Client
    from ._sync.generation import Generation
    from ._sync.session import Session
    from ._tls import TLS
    from .types import (
        Alternative,
        DecoderInfo,
        Durability,
        FinishReason,
        GenerateOptions,
        Health,
        ModelInfo,
        Phase,
        SessionInfo,
        SignalInfo,
        TensorInfo,
        Token,
        Usage,
    )

# Imported at the first use, so that `carousel --help` needs neither grpc nor numpy.
_HOMES = {
    "TLS": "_tls",
    "Alternative": "types",
    "AsyncBatch": "_async.batch",
    "AsyncClient": "_async.client",
    "AsyncGeneration": "_async.generation",
    "AsyncSession": "_async.session",
    "Batch": "_sync.batch",
    "Client": "_sync.client",
    "ClientStatistics": "_core.statistics",
    "DecoderInfo": "types",
    "Durability": "types",
    "FinishReason": "types",
    "GenerateOptions": "types",
    "Generation": "_sync.generation",
    "Health": "types",
    "ModelInfo": "types",
    "Phase": "types",
    "RetryPolicy": "_core.retry",
    "Session": "_sync.session",
    "SessionInfo": "types",
    "SignalInfo": "types",
    "TensorInfo": "types",
    "Token": "types",
    "Usage": "types",
}

__all__ = [
    "TLS",
    "Alternative",
    "AsyncBatch",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncSession",
    "Batch",
    "Client",
    "ClientStatistics",
    "DecoderInfo",
    "Durability",
    "FinishReason",
    "GenerateOptions",
    "Generation",
    "Health",
    "ModelInfo",
    "Phase",
    "RetryPolicy",
    "Session",
    "SessionInfo",
    "SignalInfo",
    "TensorInfo",
    "Token",
    "Usage",
    "__version__",
]
__all__ += exceptions.__all__


def __getattr__(name: str) -> Any:
    """Imports a public name from its module at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
