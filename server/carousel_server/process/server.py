"""A server in a process: loading, listening, draining, stopping.

A drain has these steps. Health becomes NOT_SERVING and new work is refused. Attached clients receive Drain.
Sessions are handed over to other replicas, if there are any. Engines finish accepted work. All that takes at
most drain_timeout_s. Then the server stops: engines end and answer the remaining commands, streams end, and
the wire stops.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import List
from carousel_server.metrics import Check, MetricsServer, Probes
from carousel_server.wire import (
    NativeError,
    SecretError,
    TlsFiles,
    TlsPaths,
    WireOptions,
    check_address,
    chosen_transport,
    listen_error,
    read_tls,
    read_tokens,
)

from .advertise import advertised
from .config import ConfigError, Settings
from .doors import Doors, Ports
from .front_ends import FrontEnds
from .handing_over import hand_over_all, others
from .health_watch import HealthWatch
from .runtime import version

if (
    TYPE_CHECKING
):  # the import of torch takes seconds, so the loading thread does it after the quick checks
    from carousel_server.engine import Engine
    from carousel_server.store import StoreThread

    from .assembly import Assembly

log = logging.getLogger(__name__)

LOADER = "carousel-load"
"""Name of the thread that loads the models."""

_POLL_S = 0.02
_REPLICAS_S = 0.1
_WATCH_S = 0.25
_STOP_GRACE_S = 2.0
_EXCHANGE_S = 2.0
"""How long a server waits for the list of replicas, at its start and before it drains."""

_STUCK_S = 30.0
"""An event loop that has not run for so long counts as stuck."""


METRICS_PORT = "metrics-port"
HTTP_PORT = "http-port"
"""The settings' names on the command line."""


class Server:
    """One server in this process: engines on their own threads, the wire on the running loop.

    Call `start` once. `stop` is idempotent, and may also follow a failed `start`.
    """

    def __init__(self, settings: Settings, replica: int | None = None) -> None:
        """`replica` is its number among the replicas of one machine."""
        self.settings = settings
        self._replica = replica
        self._assembly: Assembly | None = None
        self._options: WireOptions | None = None
        self._wire: Doors | FrontEnds | None = None
        self._endpoint: MetricsServer | None = None
        self._draining = False
        # Looks after the other replicas; None without a store.
        self._replicas: asyncio.Task[None] | None = None
        # When `hopeless` ran last on the event loop. Read by the probes' thread.
        self._turned_s = math.inf

    @property
    def port(self) -> int:
        """The port of gRPC."""
        return self._ports.grpc

    @property
    def http_port(self) -> int | None:
        """The port of HTTP; None where that door is off."""
        return self._ports.http

    @property
    def _ports(self) -> Ports:
        assert self._wire is not None, "the server was not started"
        return self._wire.ports

    @property
    def metrics_port(self) -> int:
        """The port of /metrics."""
        assert self._endpoint is not None, "the server was not started"
        return self._endpoint.port

    @property
    def models(self) -> list[str]:
        """Names of the models served."""
        assert self._assembly is not None, "the server was not started"
        return [engine.model.name for engine in self._assembly.engines]

    @property
    def refused(self) -> list[str]:
        """Names of the models whose packages could not be loaded."""
        assert self._assembly is not None, "the server was not started"
        return list(self._assembly.refused)

    @property
    def store(self) -> str:
        """The name of the store: "sqlite", "redis", "memory" or "none"."""
        assert self._assembly is not None, "the server was not started"
        store = self._assembly.store
        return "none" if store is None else store.name

    @property
    def transport(self) -> str:
        """What ends gRPC: "native" or "python"."""
        assert self._options is not None, "the server was not started"
        return self._options.transport

    @property
    def transport_hint(self) -> str:
        """What would make the transport native, where `auto` has not found that; else empty."""
        assert self._options is not None, "the server was not started"
        return self._options.transport_hint

    async def start(self) -> None:
        """Loads the models, starts the engines and listens. Quick checks run first.

        Raises:
            PackageError: a model cannot be served.
            ConfigError: a setting, or a file that it names, cannot be used.
            ListenError: an address cannot be listened on.
        """
        settings = self.settings
        options = self._options = wire_options(settings)
        check_address(settings.host, settings.port)
        if options.http_port is not None:
            check_address(settings.host, options.http_port, HTTP_PORT)
        check_address(settings.metrics_host, settings.metrics_port, METRICS_PORT)
        if settings.front_ends:
            self._wire = front_ends = FrontEnds(
                settings.front_ends,
                log_level=settings.log_level,
                log_format=settings.log_format,
                replica=self._replica,
            )
            assembly = self._assembly = await _load(settings)
            options = replace(options, refused_models=tuple(assembly.refused))
            measured = assembly.metrics
            await front_ends.start(
                assembly.catalog, options, measured.wire(), measured.front_end_replaced
            )
        else:
            assembly = self._assembly = await _load(settings)
            options = replace(options, refused_models=tuple(assembly.refused))
            self._wire = doors = Doors(assembly.catalog, options, assembly.metrics.wire())
            await doors.start()
        if assembly.store is not None:  # now, because others may send clients here from then on
            address = advertised(settings.advertise, settings.host, self.port)
            assembly.store.advertise(address)
            await _exchange(
                assembly.store
            )  # one that drains as soon as this one is ready knows of it
            self._replicas = asyncio.create_task(_look_after_replicas(assembly, assembly.store))
        metrics = assembly.metrics
        try:
            self._endpoint = metrics.serve(
                settings.metrics_host, settings.metrics_port, Probes(self._live, self._ready)
            )
        except OSError as error:
            host, port = settings.metrics_host, settings.metrics_port
            raise listen_error(host, port, error, METRICS_PORT) from error

    async def hopeless(self) -> None:
        """Returns once no model has been healthy for unhealthy_grace_s, or the wire has failed."""
        assert self._assembly is not None, "the server was not started"
        assert self._wire is not None, "the server was not started"
        health_watch = HealthWatch(self._assembly.engines, self.settings.unhealthy_grace_s)
        while not self._wire.failed:
            self._turned_s = time.monotonic()
            if health_watch.hopeless(time.monotonic()):
                log.error("no model is healthy: the server ends, and must be restarted")
                return
            await asyncio.sleep(_WATCH_S)
        log.error("%s: the server ends, and must be restarted", self._wire.failed)

    def _live(self) -> list[Check]:
        """Checks for faults that only a restart solves. Called on the probes' thread."""
        stuck = time.monotonic() - self._turned_s > _STUCK_S
        return [Check("event loop", f"has not run for {_STUCK_S:g} s" if stuck else "")]

    def _ready(self) -> list[Check]:
        """Checks whether calls should be sent here now. Called on the probes' thread."""
        assert self._assembly is not None, "the server was not started"
        catalog = self._assembly.catalog
        checks = [Check("accepting calls", "the server is draining" if self._draining else "")]
        checks += [
            Check(f"model {engine.model.name}", "" if engine.healthy else "is unhealthy")
            for engine in catalog.engines()
        ]
        if (fault := catalog.store_fault) is not None:
            checks.append(Check("store", fault))
        return checks

    async def drain(self) -> None:
        """Hands sessions over, then finishes accepted work, for at most drain_timeout_s in all."""
        self._draining = True
        if self._wire is None or self._assembly is None:
            return
        timeout_s = self.settings.drain_timeout_s
        self._leave_replicas()
        if self._assembly.store is not None:
            await _exchange(self._assembly.store)
        hands_over = bool(self._others())
        for engine in self._assembly.engines:
            engine.drain()
        await self._wire.drain(timeout_s, hands_over=hands_over)
        try:
            async with asyncio.timeout(timeout_s):
                if hands_over:
                    await hand_over_all(self._assembly.engines, self._others)
                    await self._wire.drain(timeout_s)
                await asyncio.gather(*(_finish(engine) for engine in self._assembly.engines))
        except TimeoutError:
            log.warning("drain: unfinished work is dropped after %g s", timeout_s)

    def _leave_replicas(self) -> None:
        """Announces that this server takes no sessions."""
        if self._replicas is not None:
            self._replicas.cancel()
        if self._assembly is not None and (store := self._assembly.store) is not None:
            store.announce(accepting=False, sessions=store.said.sessions)

    def _others(self) -> list[str]:
        """The addresses of the servers that take sessions now, without this one."""
        store = None if self._assembly is None else self._assembly.store
        return [] if store is None else others(store.replicas, store.said.address)

    async def stop(self) -> None:
        """Ends engines, streams, the wire and metrics. Engines end first, so that their answers are sent."""
        self._leave_replicas()
        if self._wire is not None:
            await self._wire.drain(_STOP_GRACE_S)
        if self._assembly is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._assembly.stop)
        if self._wire is not None:
            await self._wire.stop(_STOP_GRACE_S)
        if self._endpoint is not None:
            self._endpoint.stop()


async def _load(settings: Settings) -> Assembly:
    """Assembles on a daemon thread, so that a signal need not wait for a large model to load."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[Assembly] = loop.create_future()

    def settle(result: Assembly | Exception) -> None:
        if not loaded.done():
            if isinstance(result, Exception):
                loaded.set_exception(result)
            else:
                loaded.set_result(result)
        elif not isinstance(result, Exception):
            result.stop()  # the waiting task was cancelled

    def load() -> None:
        result: Assembly | Exception
        try:
            from .assembly import assemble

            result = assemble(settings)
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            result = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=load, name=LOADER, daemon=True).start()
    return await loaded


async def _exchange(store: StoreThread) -> None:
    """Announces this server and learns of the others, unless the store is away."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.wrap_future(store.exchange()), _EXCHANGE_S)


async def _look_after_replicas(assembly: Assembly, store: StoreThread) -> None:
    """Announces this server to the other replicas, and rebalances, until it is cancelled."""
    while True:
        store.announce(accepting=True, sessions=assembly.sessions)
        assembly.rebalance.look(store.said.address)
        await asyncio.sleep(_REPLICAS_S)


async def _finish(engine: Engine) -> None:
    """Returns when an engine has answered all that it has accepted.

    `pending` counts waiting and running work, but not work between the two, nor outputs in delivery. A
    command that the engine answers after both closes that gap.
    """
    with suppress(CarouselError):
        while engine.healthy:
            if not engine.pending():
                round_trip = List(tenant="")
                engine.submit(round_trip)
                await asyncio.wrap_future(round_trip.reply)
                if not engine.pending():
                    return
            await asyncio.sleep(_POLL_S)


_MADE = frozenset({"tokens", "transport", "http_port"})
"""Options that have the name of a setting, and another form."""


def wire_options(settings: Settings) -> WireOptions:
    """The wire's options, from the settings.

    Raises:
        ConfigError: a certificate, a key or a file of tokens cannot be used.
    """
    try:
        transport = chosen_transport(settings.transport)
    except NativeError as error:
        raise ConfigError(f"{error}\nor set transport=auto, which takes grpc.aio then") from error
    shared = {field.name for field in fields(WireOptions)} & Settings.model_fields.keys()
    return WireOptions(
        **{name: getattr(settings, name) for name in shared - _MADE},
        transport=transport.name,
        transport_hint=transport.hint,
        http_port=None if settings.http_port == "off" else settings.http_port,
        max_calls=settings.max_streams + settings.inbox_commands,
        default_idle_ttl_s=settings.idle_ttl_s,
        tls=_tls(settings),
        tenants=settings.tenant_limits(),
        tokens=_tokens(settings),
        server_version=version(),
    )


def _tls(settings: Settings) -> TlsFiles | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    paths = TlsPaths(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    try:
        return read_tls(paths)
    except SecretError as error:
        raise ConfigError(str(error)) from error


def _tokens(settings: Settings) -> dict[bytes, str]:
    if settings.tokens_file is None:
        return {bytes.fromhex(digest): tenant for tenant, digest in settings.tokens.items()}
    try:
        return read_tokens(settings.tokens_file)
    except SecretError as error:
        raise ConfigError(str(error)) from error
