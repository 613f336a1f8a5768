"""Loads the model packages of the settings' folder, or refuses each with its cause."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from carousel_models import PackageError, RecurrentModel, discover, load, read_manifest
from carousel_models.errors import KernelError
from carousel_models.kernels import choose

from .config import ConfigError, Settings

log = logging.getLogger(__name__)

_UNUSABLE = (PackageError, OSError, RuntimeError, MemoryError)
"""What loading one package may raise. Torch raises a RuntimeError when out of memory."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The models of the folder.

    Attributes:
        models: the models that can be served, by folder name.
        refused: the causes of the others, by the model's name, or the folder's if it has no name.
    """

    models: Sequence[RecurrentModel]
    refused: Mapping[str, str]


def load_models(settings: Settings, device: str) -> ModelFolder:
    """Loads the packages of the settings' folder. `bad_models` decides about a bad package.

    Raises:
        PackageError: a package is refused and `bad_models` is "refuse", or no package can be served.
        ConfigError: this machine cannot run the kernel that is asked for.
    """
    folder = read_folder(settings, device)
    for name, why in folder.refused.items():
        log.error("model %s is refused and not served: %s", name, why, extra={"model": name})
    if folder.refused and (settings.bad_models == "refuse" or not folder.models):
        first = next(iter(folder.refused.values()))
        others = len(folder.refused) - 1
        raise PackageError(first + (f" ({others} more are refused, see the log)" if others else ""))
    if folder.refused:
        log.error(
            "%d of %d packages in %s are refused; the others are served, because bad_models=skip",
            len(folder.refused),
            len(folder.refused) + len(folder.models),
            settings.models,
        )
    for model in folder.models:
        log.info("loaded %s: %d parameters on %s", model.manifest.name, model.parameters, device)
    return folder


def read_folder(settings: Settings, device: str) -> ModelFolder:
    """Loads every package of the folder. A bad one does not affect the others.

    Raises:
        PackageError: there is no folder, or no package in it.
        ConfigError: this machine cannot run the kernel that is asked for.
    """
    try:
        kernel = choose(settings.kernel, torch.device(device))
    except KernelError as error:
        raise ConfigError(f"kernel={settings.kernel}: {error}\nset kernel=auto") from error
    log.info("the kernel %s computes steps", kernel.name)
    packages = discover(settings.models)
    if not packages:
        raise PackageError(
            f"{settings.models} has no model packages; make one: carousel models create"
        )
    models: dict[str, RecurrentModel] = {}
    refused: dict[str, str] = {}
    places: dict[str, Path] = {}
    for package in packages:
        try:
            model = load(
                package, device=device, allow_custom=settings.allow_custom, kernel=settings.kernel
            )
        except _UNUSABLE as error:
            refused[_name(package)] = _why(package, error)
            continue
        name = model.manifest.name
        if name in places:
            # Two packages have one name, so neither is served.
            models.pop(name, None)
            refused[name] = (
                f"{package} and {places[name]} are both named {name!r}; rename one of them"
            )
        else:
            models[name], places[name] = model, package
    return ModelFolder(list(models.values()), refused)


def _name(package: Path) -> str:
    try:
        return read_manifest(package).name
    except (PackageError, OSError):
        return package.name


def _why(package: Path, error: BaseException) -> str:
    if isinstance(error, PackageError):
        return str(error)
    if isinstance(error, OSError):
        return f"{package} cannot be read: {error.strerror or error}; give the server's user the right to"
    cause = (str(error).splitlines() or ["out of memory"])[0]
    return f"{package} cannot be loaded: {cause}; choose another device, or a smaller model"
