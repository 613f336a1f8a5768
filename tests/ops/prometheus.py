"""Debian's Prometheus on a free loopback port, as a context manager."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

SCRAPE_INTERVAL = "500ms"
TIMEOUT_S = 60.0
_POLL_S = 0.2


def scraping(target: str) -> dict[str, Any]:
    """The configuration for one server."""
    job = {"job_name": "carousel", "static_configs": [{"targets": [target]}]}
    every = {"scrape_interval": SCRAPE_INTERVAL, "scrape_timeout": SCRAPE_INTERVAL}
    return {"global": every, "scrape_configs": [job]}


class Prometheus:
    """Scrapes what its configuration says until it is closed."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self._log = (folder / "log").open("wb")
        self._command = [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]

    def __enter__(self) -> Prometheus:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)
        self._log.close()

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of the HTTP API; an error there is a ValueError."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise ConnectionError("Prometheus is still starting") from None
            raise ValueError(json.load(error)["error"]) from None

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that an expression yields now."""
        result: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return result

    def wait_for(self, expr: str) -> None:
        """Returns when an expression yields something."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "Prometheus ended"
            try:
                if self.query(expr):
                    return
            except OSError:
                pass  # it does not listen yet, or is still starting
            time.sleep(_POLL_S)
        raise AssertionError(f"Prometheus never saw {expr}")
