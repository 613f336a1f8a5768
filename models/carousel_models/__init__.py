"""Recurrent models as packages: manifest, weights and probe.

Importing this package imports neither torch nor pydantic. Each name below is imported at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import PackageError

if TYPE_CHECKING:
    from .creating import create
    from .importing import import_file
    from .loading import CheckReport, check, load
    from .model import RecurrentModel
    from .package import discover, read_manifest, zoo_path
    from .parts_from_torch import part, program
    from .saved_decoder import Decoder
    from .saving import save
    from .spec import Manifest
    from .stack import StateSpec

_HOMES = {
    "CheckReport": "loading",
    "Decoder": "saved_decoder",
    "Manifest": "spec",
    "RecurrentModel": "model",
    "StateSpec": "stack",
    "check": "loading",
    "create": "creating",
    "discover": "package",
    "import_file": "importing",
    "load": "loading",
    "part": "parts_from_torch",
    "program": "parts_from_torch",
    "read_manifest": "package",
    "save": "saving",
    "zoo_path": "package",
}

__all__ = [
    "CheckReport",
    "Decoder",
    "Manifest",
    "PackageError",
    "RecurrentModel",
    "StateSpec",
    "check",
    "create",
    "discover",
    "import_file",
    "load",
    "part",
    "program",
    "read_manifest",
    "save",
    "zoo_path",
]


def __getattr__(name: str) -> Any:
    """Imports a public name from its module at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
