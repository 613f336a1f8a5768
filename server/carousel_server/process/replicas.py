"""The replicas of one machine: how many there are, and the settings of each."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from .config import ConfigError, Settings
from .cores import usable_cores
from .gpus import count_gpus

log = logging.getLogger(__name__)

_LAST_PORT = 65_535


def planned(
    settings: Settings,
    gpus: Callable[[], int] = count_gpus,
    cores: Callable[[], int] = usable_cores,
) -> Sequence[Settings]:
    """The settings of each replica. A single one has `replicas=1`, and shares nothing.

    Replica n has `port` + n, `http_port` + n and `metrics_port` + n, its own GPU, and its part of the
    cores. With more replicas than GPUs, several use the same one.

    Args:
        settings: what the operator has set.
        gpus: counts the GPUs. It is called only if that matters.
        cores: counts the cores.

    Raises:
        ConfigError: the settings do not fit several replicas.
    """
    if settings.replicas == 1:
        return [settings]
    found = 0 if settings.device == "cpu" else gpus()
    _check_device(settings)
    if settings.replicas == "auto":
        number = max(found, 1)
        log.info("replicas=auto: %s", _why(found, settings.device))
    else:
        number = settings.replicas
    if number == 1:
        return [_with(settings, replicas=1)]
    _check_store(settings)
    _check_ports(settings, number)
    other = "cpu" if settings.device == "auto" else settings.device
    threads = settings.torch_threads or max(1, cores() // number - 1)
    return [
        _with(
            settings,
            replicas=number,
            device=f"cuda:{n % found}" if found else other,
            torch_threads=threads,
            replica=_name(settings, n),
            advertise=_advertise(settings.advertise, n),
            port=settings.port and settings.port + n,
            metrics_port=settings.metrics_port and settings.metrics_port + n,
            http_port=_http_port(settings, n),
        )
        for n in range(number)
    ]


def _why(gpus: int, device: str) -> str:
    if device == "cpu":
        return "device=cpu, so one process serves; replicas=N starts several"
    if gpus == 0:
        return "torch finds no CUDA device here, so one process serves; replicas=N starts several"
    return f"torch finds {gpus} CUDA device(s), so as many processes serve"


def _check_device(settings: Settings) -> None:
    if ":" in settings.device:
        raise ConfigError(
            f"device={settings.device} is one GPU, and replicas={settings.replicas} uses all\n"
            "set device=cuda, and choose GPUs by CUDA_VISIBLE_DEVICES"
        )


def _check_store(settings: Settings) -> None:
    if settings.store == "memory":
        raise ConfigError(
            "a store in memory is of one process, so replicas cannot share it\n"
            "set --store sqlite:FILE"
        )


def _check_ports(settings: Settings, number: int) -> None:
    """Checks that all ports exist and differ. 0 gives each replica a free one."""
    places: set[tuple[str, int]] = set()
    advertised = int(settings.advertise.rpartition(":")[2] or 0)
    for name, host, first in (
        ("port", settings.host, settings.port),
        ("metrics_port", settings.metrics_host, settings.metrics_port),
        ("http_port", settings.host, 0 if settings.http_port == "off" else settings.http_port),
        ("the port of advertise", f"advertised {settings.advertise}", advertised),
    ):
        own = {(host, first + n) for n in range(number)} if first else set()
        if first + number - 1 > _LAST_PORT:
            raise ConfigError(
                f"{number} replicas need {name} to {name} + {number - 1}, which is over {_LAST_PORT}\n"
                f"lower {name}"
            )
        if own & places:
            raise ConfigError(
                f"{name} and another port are less than {number} apart, and each replica has its own\n"
                "change one of them"
            )
        places |= own


def _http_port(settings: Settings, n: int) -> int | str:
    port = settings.http_port
    return port if port in ("off", 0) else int(port) + n


def _name(settings: Settings, n: int) -> str:
    """A replica's name at the store. It remains the same when the replica is started again."""
    if settings.replica:
        return f"{settings.replica}-{n}"
    if settings.port:
        return ""  # its port makes it unique
    return f"{socket.gethostname()}:{os.getpid()}-{n}"


def _advertise(address: str, n: int) -> str:
    """The advertised address of a replica: ports count up there as they do here."""
    if not address:
        return ""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + n}"


def _with(settings: Settings, **own: Any) -> Settings:
    """The settings with others of a replica's own, and the rest as it was set or not set."""
    return Settings(**{**settings.model_dump(exclude_unset=True), **own})
