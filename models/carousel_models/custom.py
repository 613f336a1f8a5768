"""Custom modules: found by import name, made from their kwargs, filled with a package's tensors."""

from __future__ import annotations

import importlib
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import PackageError
from .spec import CustomSpec
from .states import INITIAL_PREFIX
from .tensors import TensorInfo
from .weights import info_of

CUSTOM_PREFIX = "custom."

UNROUNDED = (CUSTOM_PREFIX, INITIAL_PREFIX)
"""Beginnings of the names of tensors that have types of their own, for any type of the manifest."""


def import_custom(spec: CustomSpec, allowed: Collection[str], device: torch.device) -> nn.Module:
    """Imports a custom module by its name and makes it from its kwargs, in eval mode.

    Raises:
        PackageError: the name is not allowed or not found, or the module cannot be made.
    """
    if spec.module not in allowed:
        raise PackageError(
            f"the package wants to import the custom module {spec.module!r}, which is not allowed here; "
            "if you trust its code, allow this import name in the settings (allow_custom, --allow-custom)"
        )
    return make(spec, import_class(spec.module)).to(device)


def import_class(name: str) -> Callable[..., object]:
    """The class of an import name, "package.module:Class".

    Raises:
        PackageError: it is not an import name, or there is no such class.
    """
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise PackageError(f"{name!r} is no import name; write it as package.module:Class")
    try:
        kind: Callable[..., object] = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # foreign code may raise anything
        raise PackageError(
            f"custom module {name!r} cannot be made: {error!r}; {_import_fix(module_name, class_name, error)}"
        ) from error
    return kind


def make(spec: CustomSpec, kind: Callable[..., object]) -> nn.Module:
    """Makes a module as a server does: from its class and kwargs, in eval mode, without gradients.

    Raises:
        PackageError: the class cannot be made so, or has no step.
    """
    kwargs = json.loads(json.dumps(spec.kwargs))
    try:
        with torch.random.fork_rng(devices=[]):  # its initial weights are not used
            module = kind(**kwargs)
    except Exception as error:  # foreign code may raise anything
        raise PackageError(
            f"custom module {spec.module!r} cannot be made: {error!r}; correct its kwargs ({kwargs})"
        ) from error
    if not isinstance(module, nn.Module) or not callable(getattr(module, "step", None)):
        raise PackageError(f"custom {spec.module!r} must be a torch.nn.Module with step(x, state)")
    return module.eval().requires_grad_(False)


def make_again(spec: CustomSpec, given: nn.Module) -> nn.Module:
    """The module that a server would make of a user's one, with the same tensors.

    Raises:
        PackageError: the import name is not that of the module's class, or kwargs and tensors do not make
            such a module.
    """
    _check_name(spec, type(given))
    tensors = tensors_of(given)
    module = make(spec, type(given))
    found = {name: info_of(tensor) for name, tensor in tensors.items()}
    expected = {name: info_of(tensor) for name, tensor in tensors_of(module).items()}
    wrong = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    if wrong:
        listed = ", ".join(
            f"{name}: {found.get(name)} instead of {expected.get(name)}" for name in wrong[:5]
        )
        raise PackageError(
            f"{spec.module}(**{spec.kwargs}) has other tensors than the module that was given: {listed}; "
            "correct the kwargs, or make the tensors in its constructor"
        )
    fill(module, {CUSTOM_PREFIX + name: tensor for name, tensor in tensors.items()})
    return module


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A custom module's state_dict.

    Raises:
        PackageError: it has something other than tensors.
    """
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise PackageError(
                f"the custom module's state_dict holds {name!r}, a {type(value).__name__}; a package holds "
                "tensors only: register it as a buffer, or give it by kwargs"
            )
    return dict(state)


def custom_tensors(module: nn.Module) -> dict[str, TensorInfo]:
    """The stored tensors of a custom module: its state_dict under `custom.`."""
    return {CUSTOM_PREFIX + name: info_of(value) for name, value in tensors_of(module).items()}


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads a package's `custom.` tensors into a module.

    Raises:
        PackageError: the module does not accept them.
    """
    own = {
        name.removeprefix(CUSTOM_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(CUSTOM_PREFIX)
    }
    try:
        module.load_state_dict(own)
    except Exception as error:  # this runs hooks of the module
        raise PackageError(
            f"the custom module {type(module).__name__} does not load its own tensors: {error}; correct its "
            "state_dict hooks"
        ) from error


def _check_name(spec: CustomSpec, kind: type[nn.Module]) -> None:
    """Checks that the import name is that of the class whose tensors are saved. Raises PackageError."""
    module_name, class_name = spec.module.split(":")
    if kind.__qualname__ == class_name and module_name in _names_of(kind.__module__):
        return
    found = getattr(sys.modules.get(module_name), class_name, None)
    if found is kind:
        return
    if kind.__module__ == "__main__":
        where = "in the running program (__main__), which a server cannot import"
        fix = f"move the class to a module, {module_name}.py, and import it from there"
    else:
        where = f"at {kind.__module__}:{kind.__qualname__}"
        fix = f"say module={kind.__module__ + ':' + kind.__qualname__!r} in CustomSpec"
    raise PackageError(
        f"CustomSpec names {spec.module!r}, but the class of the given module is {where}; {fix}"
    )


def _names_of(module_name: str) -> set[str]:
    """Names by which a class's module can be imported; a script's are those of its file."""
    if module_name != "__main__":
        return {module_name}
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return ({spec.name} if spec else set()) | ({Path(file).stem} if file else set())


def _import_fix(module_name: str, class_name: str, error: Exception) -> str:
    if not isinstance(error, ModuleNotFoundError):
        return f"correct the code of {module_name}, or the name {class_name!r} in the manifest"
    missing = error.name or module_name
    if missing != module_name and not module_name.startswith(missing + "."):
        return f"{module_name} itself imports {missing!r}: install that in this environment"
    top = module_name.partition(".")[0]
    return (
        f"searched in {', '.join(_search_path())} (PYTHONPATH is "
        f"{os.environ.get('PYTHONPATH') or 'not set'}): install the package of {top!r} in this environment, "
        f"or start with PYTHONPATH=FOLDER, the folder that holds {top} or {top}.py"
    )


def _search_path() -> list[str]:
    """The entries of sys.path for users' modules: all but the standard library's."""
    paths = sysconfig.get_paths()
    standard = {Path(paths[name]).resolve() for name in ("stdlib", "platstdlib")}
    standard |= {path / "lib-dynload" for path in standard}
    entries = (Path(entry).resolve() for entry in sys.path)
    return [str(e) for e in entries if e not in standard and e.suffix != ".zip"]
