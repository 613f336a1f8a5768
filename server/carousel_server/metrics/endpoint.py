"""The HTTP endpoint that Prometheus scrapes, and that orchestrators probe."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `fault` is the cause of a failure, "" for none."""

    name: str
    fault: str = ""

    def __str__(self) -> str:
        return f"failed {self.name}: {self.fault}" if self.fault else f"ok {self.name}"


Checks = Callable[[], Sequence[Check]]
"""Runs checks. Any thread may call it, and it must not wait."""


def none() -> Sequence[Check]:
    """No checks. The probe passes if the process answers."""
    return ()


@dataclass(frozen=True, slots=True)
class Probes:
    """The checks of each path.

    Attributes:
        live: faults that only a restart solves.
        ready: whether calls should be sent here now.
    """

    live: Checks = none
    ready: Checks = none


def answer(checks: Sequence[Check]) -> tuple[str, bytes]:
    """The HTTP status and the text of a probe. 200 if every check passes, else 503."""
    well = not any(check.fault for check in checks)
    lines = [*map(str, checks), "ok" if well else "failed"]
    return "200 OK" if well else "503 Service Unavailable", "".join(
        f"{x}\n" for x in lines
    ).encode()


READ_TIMEOUT_S = 10.0
"""Connections that send nothing for so long are closed."""

NO_PROBES = Probes()
"""The probes of a server without checks."""

_POLL_S = 0.05
"""How often the thread checks whether to end."""

_NOT_FOUND = b"Metrics are at /metrics, probes at /livez and /readyz.\n"
_TEXT = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]


class _Server(ThreadingWSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs defects. A scraper that disconnects or is silent is not logged."""
        del request
        if not isinstance(sys.exception(), OSError):
            log.exception("a scrape from %s failed", client_address)

    def server_bind(self) -> None:
        # The parent looks up its own name, which can take seconds where DNS is broken.
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietRequest(WSGIRequestHandler):
    timeout = READ_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Does nothing: scrapes are not logged."""


class MetricsServer:
    """Serves /metrics, as text or OpenMetrics, and the probes in a daemon thread.

    Raises:
        OSError: the address is in use, or is not one of this machine.
    """

    def __init__(
        self, registry: CollectorRegistry, host: str, port: int, probes: Probes = NO_PROBES
    ) -> None:
        self._probes = {"/livez": probes.live, "/readyz": probes.ready}
        self._app = make_wsgi_app(registry)
        host = host.strip("[]")
        self._server = make_server(
            host,
            port,
            self._route,
            server_class=_Server6 if ":" in host else _Server,
            handler_class=_QuietRequest,
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="carousel-metrics", daemon=True
        )
        self._stopped = False
        self._thread.start()

    @property
    def port(self) -> int:
        """The bound port: the requested one, or a free one for 0."""
        return int(self._server.server_port)

    def stop(self) -> None:
        """Closes the port and ends the thread. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _route(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [*_TEXT, ("Allow", "GET, HEAD")])
            return []
        if (checks := self._probes.get(path)) is not None:
            status, text = answer(checks())
            start_response(status, [*_TEXT])
            return [text]
        if path != "/metrics":
            start_response("404 Not Found", [*_TEXT])
            return [_NOT_FOUND]
        body: Iterable[bytes] = self._app(environ, start_response)
        return body
