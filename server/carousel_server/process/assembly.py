"""Builds everything behind the wire from the settings: models, engines, catalog and store."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from carousel_models import devices
from carousel_server.core.context import NoStore
from carousel_server.core.quotas import Quotas
from carousel_server.engine import Engine, Environment
from carousel_server.metrics import Metrics
from carousel_server.residency.activation import Activation
from carousel_server.residency.asking import Answering, Asking
from carousel_server.residency.catalog import Catalog
from carousel_server.residency.directory import Directory
from carousel_server.residency.rebalance import Rebalance
from carousel_server.store import StoreError, StoreThread, open_store
from carousel_server.wire import read_tokens
from carousel_server.wire.auth import DEFAULT_TENANT

from .config import ConfigError, Settings
from .cores import usable_cores
from .model_folder import load_models
from .runtime import version

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The running engines and their catalog. `refused` has the models that could not be loaded."""

    engines: Sequence[Engine]
    catalog: Catalog
    metrics: Metrics
    store: StoreThread | None
    directory: Directory
    rebalance: Rebalance
    refused: Sequence[str] = ()

    @property
    def sessions(self) -> int:
        """Number of resident sessions, of all models."""
        return len(self.directory)

    def stop(self) -> None:
        """Ends the engines' threads after their current tick, all in parallel, and then the store's.

        Idempotent.
        """
        try:
            with ThreadPoolExecutor(len(self.engines)) as pool:
                list(pool.map(Engine.stop, self.engines))  # a list, so that exceptions are raised
        finally:
            if self.store is not None:
                self.store.stop()


def assemble(settings: Settings) -> Assembly:
    """Loads every package of `settings.models` and starts an engine for each.

    Raises:
        PackageError: a package is refused, or there are no packages.
        ConfigError: the device does not exist, or its memory is too small for the slots.
    """
    device = choose_device(settings.device)
    devices.use(torch.device(device))
    threads = torch_threads(settings.torch_threads)
    torch.set_num_threads(threads)
    log.info("threads for steps: %d; usable cores: %d", threads, usable_cores())
    folder = load_models(settings, device)
    build = {"version": version(), "torch": torch.__version__, "device": device}
    metrics = Metrics(build, tenant_names(settings))
    metrics.models_refused(len(folder.refused))
    directory, limits = Directory(), settings.limits()
    quotas = Quotas(settings.tenant_limits(), retry_after_s=settings.retry_after_s)
    store = start_store(settings, metrics)
    environment = Environment(
        directory,
        partial(metrics.engine, slots=limits.slots),
        store,
        quotas,
        strict=settings.strict,
    )
    try:
        engines = [Engine(model, limits, environment) for model in folder.models]
    except (
        ValueError,
        MemoryError,
        RuntimeError,
    ) as error:  # torch raises a RuntimeError when out of memory
        if store is not None:
            store.stop()
        raise ConfigError(
            f"{settings.slots} slots do not fit: {str(error).splitlines()[0] or 'out of memory'}\n"
            "lower slots, or window_steps"
        ) from error
    for engine in engines:
        engine.start()
    catalog = make_catalog(directory, engines, store, settings, quotas)
    rebalance = Rebalance(store or NoStore(), engines, metrics, moves_per_s=settings.moves_per_s)
    return Assembly(engines, catalog, metrics, store, directory, rebalance, tuple(folder.refused))


def tenant_names(settings: Settings) -> tuple[str, ...]:
    """Tenants with series of their own that are known at the start."""
    path = settings.tokens_file
    named = () if path is None else read_tokens(path).values()
    return tuple(dict.fromkeys((*settings.tenants, *named))) or (DEFAULT_TENANT,)


def make_catalog(
    directory: Directory,
    engines: Sequence[Engine],
    store: StoreThread | None,
    settings: Settings,
    quotas: Quotas,
) -> Catalog:
    """The catalog, which finds sessions on rows and in the store."""
    if store is None:
        return Catalog(directory, engines, quotas=quotas)
    by_name = {engine.model.name: engine for engine in engines}
    store.hand_asked_to(Answering(directory, by_name, store).take)
    activation = Activation(
        directory,
        by_name,
        store,
        Asking(store, settings.hand_over_s),
        default_idle_ttl_s=settings.idle_ttl_s,
        max_idle_ttl_s=settings.max_idle_ttl_s,
    )
    return Catalog(directory, engines, store, activation, quotas)


def start_store(settings: Settings, metrics: Metrics) -> StoreThread | None:
    """The store of the settings with its thread, or None if no store is set.

    Raises:
        ConfigError: the store cannot be used.
    """
    if not settings.store:
        return None
    replica = settings.replica or default_replica(settings.port)
    try:
        store = open_store(
            settings.store,
            replica=replica,
            lease_ttl_s=settings.lease_ttl_s,
            shared=settings.replicas != 1,
        )
    except StoreError as error:
        raise ConfigError(str(error)) from error
    thread = StoreThread(
        store,
        queue_requests=settings.store_requests,
        metrics=metrics.store(),
        limits=settings.tenant_limits(),
    )
    thread.start()
    return thread


def default_replica(port: int) -> str:
    """This machine's name and the port. Only one process can have bound that port."""
    number = str(port) if port else f"free-{secrets.token_hex(4)}"
    return f"{socket.gethostname()}:{number}"


def choose_device(wanted: str) -> str:
    """The device of the models: cpu, cuda, or cuda:N.

    Raises:
        ConfigError: the setting is a CUDA device that does not exist.
    """
    there = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if there else "cpu"
    if wanted == "cpu":
        return wanted
    if not there:
        raise ConfigError("torch finds no CUDA device here\nset device=cpu or device=auto")
    _, _, index = wanted.partition(":")
    if index and int(index) >= (count := torch.cuda.device_count()):
        gpus = "one GPU, which is 0" if count == 1 else f"GPUs 0 to {count - 1}"
        raise ConfigError(f"device={wanted}: this machine has {gpus}\nset device=cuda:0")
    return f"cuda:{int(index)}" if index else wanted


def torch_threads(setting: int) -> int:
    """Threads for matrix products: the setting, or all usable cores but one for gRPC."""
    return setting or max(1, usable_cores() - 1)
