"""Composition: from settings to a running server, and its orderly end.

The drain, in order: health says NOT_SERVING and nothing new begins; attached clients are told; engines
finish what they have accepted, up to drain_timeout_s; streams end; engines stop; the wire stops. A second
signal ends it at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from carousel_models import PackageError
from carousel_server.assembly import Assembly, assemble, version
from carousel_server.config import ConfigError, Settings
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import List
from carousel_server.engine import Engine
from carousel_server.logs import configure_logging
from carousel_server.metrics import MetricsServer
from carousel_server.wire import PortInUseError, TlsFiles, WireOptions, WireServer

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_SETTINGS = 2

_POLL_S = 0.02
_STOP_GRACE_S = 2.0


class Server:
    """One server in this process: engines on threads of their own, the wire on the running loop.

    `start` and `stop` once each; `stop` is idempotent and also right after a failed `start`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._assembly: Assembly | None = None
        self._wire: WireServer | None = None
        self._endpoint: MetricsServer | None = None
        self._stopped = asyncio.Event()

    @property
    def port(self) -> int:
        """Where gRPC listens."""
        assert self._wire is not None, "the server was not started"
        return self._wire.port

    @property
    def metrics_port(self) -> int:
        """Where /metrics listens."""
        assert self._endpoint is not None, "the server was not started"
        return self._endpoint.port

    @property
    def models(self) -> list[str]:
        """Names of the models served."""
        assert self._assembly is not None, "the server was not started"
        return [engine.model.name for engine in self._assembly.engines]

    async def start(self) -> None:
        """Loads the models, starts the engines, listens.

        Raises:
            PackageError: a model cannot be served.
            ConfigError: a file named in the settings cannot be read.
            PortInUseError: an address is taken.
        """
        settings = self.settings
        options = wire_options(settings)
        loop = asyncio.get_running_loop()
        self._assembly = await loop.run_in_executor(None, assemble, settings)
        metrics = self._assembly.metrics
        self._wire = WireServer(self._assembly.catalog, options, metrics.wire())
        await self._wire.start()
        try:
            self._endpoint = metrics.serve(settings.metrics_host, settings.metrics_port)
        except OSError as error:
            raise PortInUseError(
                f"cannot listen on {settings.metrics_host}:{settings.metrics_port} for metrics"
            ) from error

    async def drain(self) -> None:
        """Finishes what was accepted, up to drain_timeout_s."""
        if self._wire is None or self._assembly is None:
            return
        timeout_s = self.settings.drain_timeout_s
        for engine in self._assembly.engines:
            engine.drain()
        await self._wire.drain(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(_finish(engine) for engine in self._assembly.engines))
        except TimeoutError:
            log.warning("drain: work is left after %g s and is dropped", timeout_s)

    async def stop(self) -> None:
        """Ends streams, engines, metrics and the wire."""
        if self._wire is not None:
            await self._wire.stop(_STOP_GRACE_S)
        if self._assembly is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._assembly.stop)
        if self._endpoint is not None:
            self._endpoint.stop()
        self._stopped.set()

    async def wait(self) -> None:
        """Returns when the server has stopped."""
        await self._stopped.wait()


async def _finish(engine: Engine) -> None:
    """Returns when an engine has answered all that it has accepted.

    `pending` counts what waits and what runs, but not what is between the two, nor outputs that are just
    leaving. A command that the engine answers after both settles it.
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


def serve(settings: Settings) -> int:
    """Runs a server until SIGTERM or SIGINT; returns the exit code.

    0 after a drain, 1 if an address is taken, 2 if a setting or a model package cannot be used.
    """
    configure_logging(settings.log_level, settings.log_format)
    try:
        return _run(_serve(settings))
    except (PackageError, ConfigError) as error:
        sys.stderr.write(f"carousel: {error}\n")
        return EXIT_SETTINGS
    except PortInUseError as error:
        sys.stderr.write(
            f"carousel: {error}: is another server running there?\n"
            "choose another port, or 0 for a free one\n"
        )
        return EXIT_FAILED


async def _serve(settings: Settings) -> int:
    server = Server(settings)
    asked = _signals()
    try:
        await server.start()
        _say_ready(server)
        await asked.wait()
        log.info(
            "draining: %g s at most; a second signal ends it at once", settings.drain_timeout_s
        )
        asked.clear()
        await _first_of(server.drain(), asked.wait())
    finally:
        await server.stop()
    log.info("stopped")
    return EXIT_OK


def _signals() -> asyncio.Event:
    """An event that every SIGTERM and SIGINT sets."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    return asked


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _say_ready(server: Server) -> None:
    """Tells people how to talk to the server; tells programs in one JSON line."""
    host, metrics_host = server.settings.host, server.settings.metrics_host
    facts = {
        "event": "ready",
        "host": host,
        "port": server.port,
        "metrics_port": server.metrics_port,
        "models": server.models,
    }
    log.info("ready", extra=facts)
    if sys.stdout.isatty():
        target = f"{host}:{server.port}"
        sys.stdout.write(
            f"carousel {version()} serves {len(server.models)} models: {', '.join(server.models)}\n"
            f"  gRPC      {target}\n"
            f"  metrics   http://{metrics_host}:{server.metrics_port}/metrics\n"
            f"  try       carousel models list --server {target}\n"
            "  stop      Ctrl-C\n"
        )
    else:
        sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def wire_options(settings: Settings) -> WireOptions:
    """What the wire needs of the settings.

    Raises:
        ConfigError: a certificate or key cannot be read.
    """
    return WireOptions(
        host=settings.host,
        port=settings.port,
        max_message_bytes=settings.max_message_bytes,
        max_streams=settings.max_streams,
        max_handles=settings.max_handles,
        max_calls=settings.max_streams + settings.inbox_commands,
        max_idle_ttl_s=settings.max_idle_ttl_s,
        max_generate_tokens=settings.max_generate_tokens,
        retry_after_s=settings.retry_after_s,
        reflection=settings.reflection,
        tls=_tls(settings),
        tokens={bytes.fromhex(digest): tenant for tenant, digest in settings.tokens.items()},
        server_version=version(),
    )


def _tls(settings: Settings) -> TlsFiles | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        ca = settings.tls_client_ca
        return TlsFiles(
            cert=settings.tls_cert.read_bytes(),
            key=settings.tls_key.read_bytes(),
            client_ca=None if ca is None else ca.read_bytes(),
        )
    except OSError as error:
        raise ConfigError(
            f"cannot read {error.filename}: {error.strerror}\nname PEM files"
        ) from error


def _run(main: Coroutine[Any, Any, int]) -> int:
    """Runs on uvloop where it is installed: a third more messages per second on the same core."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        new_loop = new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)
