"""Modules that hold another module and add nothing to what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .errors import PackageError

_INNER = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
}
"""Wrappers by the name of their class, and the attribute that has the wrapped module."""

_SCRIPT = "TorchScript cannot be looked into; give the Python module that it was made from"
_REFUSED = {
    "FullyShardedDataParallel": "its weights are spread over processes; gather them into a plain module",
    "RecursiveScriptModule": _SCRIPT,
    "TopLevelTracedModule": _SCRIPT,
    "ScriptModule": _SCRIPT,
}


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that torch.compile, DataParallel, DistributedDataParallel or AveragedModel holds.

    Raises:
        PackageError: the wrapped module cannot be reached.
    """
    name = type(module).__name__
    if not type(module).__module__.startswith("torch."):
        return module
    if name in _REFUSED:
        raise PackageError(f"the module is a {name}, and {_REFUSED[name]}")
    if name not in _INNER:
        return module
    inner = getattr(module, _INNER[name])
    assert isinstance(inner, nn.Module)
    return unwrapped(inner)


def bare(part: Any) -> Any:
    """A module, or a list of modules, without wrappers. Anything else is returned as it is.

    Raises:
        PackageError: a wrapped module cannot be reached.
    """
    if isinstance(part, nn.Module):
        return unwrapped(part)
    if isinstance(part, Sequence) and not isinstance(part, str):
        return [bare(one) for one in part]
    return part
