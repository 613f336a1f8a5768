"""A real redis-server on loopback, for tests."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

_TRIES, _PAUSE_S = 200, 0.05


class RedisServer:
    """A server in a folder of its own, which survives `kill` and `start`. Use as a context manager."""

    def __init__(self, folder: Path, *options: str, appendfsync: str = "everysec") -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is missing: apt-get install redis-server")
        self._folder = folder
        self._options: Sequence[str] = ("--appendfsync", appendfsync, *options)
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """For a store."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client that waits until the server is there."""
        retry = Retry(ConstantBackoff(_PAUSE_S), _TRIES, supported_errors=(redis.ConnectionError,))
        return redis.Redis(port=self.port, retry=retry)

    def start(self) -> None:
        """Starts it and waits until it answers and has read its log."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "yes", "--dir", str(self._folder), *self._options]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        with self.client() as client:
            while client.info("persistence")["loading"]:
                pass

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
