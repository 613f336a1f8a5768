"""Servers that come and go at one address and on one store, and the faults that processes have."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from support.server import ServerProcess

END_TIMEOUT_S = 60.0
"""For a process that kills itself, or ends in good order, on a machine that is busy."""


class Site:
    """One address and one store. At most one server lives on it at a time; use as a context manager.

    Attributes:
        host, port: where every server of this site listens.
        server: the newest one.
    """

    def __init__(
        self,
        models: Path,
        store: str,
        *,
        inside: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        """Arguments as of `ServerProcess`; strict, so that outputs can be compared to the bit."""
        self.host = str(settings.get("host", "127.0.0.1"))
        self.port = int(str(settings.pop("port", 0))) or free_port()
        self._inside, self._environment = inside, dict(environment or {})
        self.server: ServerProcess | None = None
        self._all: list[ServerProcess] = []
        self._models = models
        self._settings: dict[str, object] = {
            "store": store, "strict": True, "slots": 1024, "max_batch": 128, **settings,
        }  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.is_alive:
            self.resume()
            self.kill()
        if kind is None:
            for server in self._all:
                assert "Traceback" not in server.text, server.text

    @property
    def target(self) -> str:
        """What a client connects to."""
        return f"{self.host}:{self.port}"

    @property
    def is_alive(self) -> bool:
        """A server runs here, or is stopped by `pause`."""
        return self.server is not None and self.server.process.poll() is None

    @property
    def told(self) -> str:
        """What all its servers have logged, one after the other, without the lines of calls."""
        lines = (line for server in self._all for line in list(server.log))
        return "".join(line for line in lines if " carousel.access " not in line)

    def start(self, failpoint: str = "") -> float:
        """Starts a server, which dies at `failpoint` ("name:n"); returns when it was ready.

        The instant is of the monotonic clock.
        """
        failing = {"CAROUSEL_FAILPOINT": failpoint} if failpoint else {}
        server = ServerProcess(
            self._models,
            environment={**self._environment, **failing},
            inside=self._inside,
            port=self.port,
            **self._settings,
        )
        self.server = server.__enter__()
        self._all.append(server)
        return time.monotonic()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed or told."""
        self._living.signal(signal.SIGKILL)
        self._living.wait()

    def pause(self) -> None:
        """SIGSTOP: the process knows nothing of what happens from now on."""
        pid = self._living.process.pid
        self._living.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        self._living.signal(signal.SIGCONT)

    def dies(self) -> None:
        """Waits until the failpoint has killed the server."""
        code = self._living.process.wait(END_TIMEOUT_S)
        self._living.wait()
        assert code == -signal.SIGKILL, self.text

    def drain(self) -> None:
        """SIGTERM, and the end in good order."""
        self._living.signal(signal.SIGTERM)
        code = self._living.process.wait(END_TIMEOUT_S)
        self._living.wait()
        assert code == 0, self.text

    def metric(self, series: str) -> float:
        """The value of one series, by its name and labels as they are written on the page."""
        with urllib.request.urlopen(self._living.metrics_url, timeout=10) as page:
            text = page.read().decode()
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        assert found is not None, f"no series {series}"
        return float(found[1])

    @property
    def text(self) -> str:
        """The newest server's log."""
        return self._living.text

    @property
    def _living(self) -> ServerProcess:
        assert self.server is not None, "start a server first"
        return self.server


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
