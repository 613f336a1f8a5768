"""The server as a program: signals, exit codes, and the lines that it prints when it is ready."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from typing import Any

from carousel_models import PackageError
from carousel_server.wire import ListenError

from .config import PREFIX, ConfigError, Settings
from .config_sources import service_variables
from .logs import configure_logging
from .replicas import planned
from .runtime import raise_file_limit, run, version
from .server import LOADER, Server
from .supervisor import supervise

log = logging.getLogger(__name__)

_STORES = {"none": "none: sessions end with the server; --store sqlite:FILE keeps them"}
"""The text about a store, where its name is not enough."""

_LAST_MOMENT_S = 0.5
"""Time for threads to end that have sent their result."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_SETTINGS = 2


def serve(settings: Settings) -> int:
    """Runs a server, or the replicas of `replicas`, until SIGTERM or SIGINT. Returns the exit code.

    See `serve_one` and `supervise`.
    """
    configure_logging(settings.log_level, settings.log_format)
    try:
        plan = planned(settings)
    except ConfigError as error:
        _say_why(error)
        return EXIT_SETTINGS
    return serve_one(plan[0]) if len(plan) == 1 else supervise(plan)


def serve_one(settings: Settings, replica: int | None = None) -> int:
    """Runs one server until SIGTERM or SIGINT. Returns the exit code.

    The code is 0 after a signal. It is 1 if an address is in use or no model is healthy, and 2 if a setting
    or a model package cannot be used. If a thread cannot be ended, because it is in a failed device or a
    large file, the process ends here with the same code.

    Args:
        settings: of the server.
        replica: its number among several, for its log lines.
    """
    configure_logging(settings.log_level, settings.log_format, replica)
    raise_file_limit()
    if passed_over := service_variables(os.environ, PREFIX):
        log.info("ignored variables that describe Services: %s", ", ".join(passed_over))
    try:
        code = run(_serve(settings, replica))
    except (PackageError, ConfigError) as error:
        _say_why(error)
        code = EXIT_SETTINGS
    except ListenError as error:
        _say_why(error)
        code = EXIT_FAILED
    _leave_behind(code)
    return code


async def _serve(settings: Settings, replica: int | None) -> int:
    server = Server(settings, replica)
    asked = _signals()
    code = EXIT_OK
    try:
        if await _first_of(server.start(), asked.wait()) == 1:
            log.info("stopped before it was ready")
            return EXIT_OK
        _say_ready(server)
        if await _first_of(asked.wait(), server.hopeless()) == 1:
            code = EXIT_FAILED
        log.info(
            "draining: %g s at most; a second signal ends the server at once",
            settings.drain_timeout_s,
        )
        asked.clear()
        await _first_of(server.drain(), asked.wait())
    finally:
        await server.stop()
    log.info("stopped")
    return code


def _say_why(error: Exception) -> None:
    """Prints cause and fix, each on its line, in the form of the command line."""
    cause, *more = str(error).splitlines()
    sys.stderr.write(f"carousel: {cause}\n")
    if len(more) == 1:
        more = [f"  fix: {more[0].strip()}"]
    sys.stderr.writelines(f"{line}\n" for line in more)


def _signals() -> asyncio.Event:
    """An event that every SIGTERM and SIGINT sets."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    return asked


async def _first_of(*waits: Coroutine[Any, Any, object]) -> int:
    """Waits for the first to end and cancels the others. Returns its place, or raises its exception."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        place = next(i for i, task in enumerate(tasks) if task.done())
        await tasks[place]
        return place
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _leave_behind(code: int) -> None:
    """Ends the process if one of our threads does not end in a short time.

    Such a thread is in the device's driver or a file, and could crash the interpreter's own shutdown.
    """
    until_s = time.monotonic() + _LAST_MOMENT_S
    left = []
    for thread in threading.enumerate():
        if thread.name == LOADER or thread.name.startswith("engine-"):
            thread.join(max(0.0, until_s - time.monotonic()))
            if thread.is_alive():
                left.append(thread.name)
    if left:
        log.warning("threads still running: %s", ", ".join(left))
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _say_ready(server: Server) -> None:
    """Prints how to reach the server: text for people, or one JSON line for programs."""
    host, metrics_host = server.settings.host, server.settings.metrics_host
    facts = {
        "event": "ready",
        "pid": os.getpid(),
        "host": host,
        "port": server.port,
        "http_port": server.http_port,
        "metrics_port": server.metrics_port,
        "models": server.models,
        "refused": server.refused,
        "store": server.store,
        "transport": server.transport,
        "transport_hint": server.transport_hint,
    }
    log.info("ready", extra=facts)
    if sys.stdout.isatty():
        target = f"{host}:{server.port}"
        names = ", ".join(server.refused)
        refused = f"  REFUSED   {names}: see the log for the cause\n" if names else ""
        hint = server.transport_hint
        faster = f"  faster    with the native transport: {hint}\n" if hint else ""
        scheme = "http" if server.settings.tls_cert is None else "https"
        page = "" if server.settings.console else "api/models"
        at = "" if server.http_port is None else f"{scheme}://{host}:{server.http_port}/{page}"
        http = f"  HTTP      {at}\n" if at else ""
        sys.stdout.write(
            f"carousel {version()} serves {len(server.models)} models: {', '.join(server.models)}\n"
            f"{refused}"
            f"  gRPC      {target} ({server.transport} transport)\n"
            f"{faster}"
            f"{http}"
            f"  metrics   http://{metrics_host}:{server.metrics_port}/metrics\n"
            f"  store     {_STORES.get(server.store, server.store)}\n"
            f"  try       carousel models list --server {target}\n"
            f"  stop      Ctrl-C, or kill {os.getpid()}\n"
        )
    else:
        sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
