"""Checks whether a server could start, without starting one. For `carousel config check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carousel_models import PackageError
from carousel_server.store import StoreError, check_store
from carousel_server.wire import ListenError, check_address

from .config import ConfigError, Settings
from .findings import halves
from .replicas import planned
from .server import HTTP_PORT, METRICS_PORT, wire_options


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that a start would have.

    Attributes:
        setting: its name.
        cause: what is wrong.
        fix: what to do.
    """

    setting: str
    cause: str
    fix: str


def rehearse(settings: Settings) -> list[Problem]:
    """Does what a start does, as far as it leaves no trace.

    It reads the files of TLS, binds the addresses of each replica for a moment, opens and closes the store,
    imports custom modules, and loads and checks every package. It does not allocate slots.
    """
    try:
        plan = planned(settings)
    except ConfigError as error:
        return [_problem("replicas", error)]
    return [
        *_certificates(settings),
        *(problem for one in plan for problem in _addresses(one)),
        *_store(settings),
        *models(settings),
    ]


def _certificates(settings: Settings) -> Iterator[Problem]:
    try:
        wire_options(settings)
    except ConfigError as error:
        yield _problem("tls_cert", error)


def listening(settings: Settings) -> Sequence[tuple[str, str, int, str]]:
    """What a server listens on: the setting, the host, the port, and the name on the command line."""
    always = (
        ("port", settings.host, settings.port, "port"),
        ("metrics_port", settings.metrics_host, settings.metrics_port, METRICS_PORT),
    )
    if settings.http_port == "off":
        return always
    return (*always, ("http_port", settings.host, settings.http_port, HTTP_PORT))


def _addresses(settings: Settings) -> Iterator[Problem]:
    for setting, host, port, shown in listening(settings):
        try:
            check_address(host, port, shown)
        except ListenError as error:
            yield _problem(setting, error)


def _store(settings: Settings) -> Iterator[Problem]:
    if not settings.store:
        return
    try:
        check_store(settings.store, lease_ttl_s=settings.lease_ttl_s)
    except StoreError as error:
        yield _problem("store", error)


def models(settings: Settings) -> Sequence[Problem]:
    """The problems of the device, the kernel, the custom modules and the packages."""
    return list(_models(settings))


def _models(settings: Settings) -> Iterator[Problem]:
    # These import torch.
    import torch

    from carousel_models import devices
    from carousel_models.custom import import_class

    from .assembly import choose_device
    from .model_folder import read_folder

    for name in settings.allow_custom:
        try:
            import_class(name)
        except PackageError as error:
            yield _problem("allow_custom", error)
    try:
        device = choose_device(settings.device)
        devices.use(torch.device(device))
    except ConfigError as error:
        yield _problem("device", error)
        return
    try:
        folder = read_folder(settings, device)
    except PackageError as error:
        yield _problem("models", error)
    except ConfigError as error:
        yield _problem("kernel", error)
    else:
        for why in folder.refused.values():
            yield _problem("models", PackageError(why))


def _problem(setting: str, error: Exception) -> Problem:
    return Problem(setting, *halves(error))
