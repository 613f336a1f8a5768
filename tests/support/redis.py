"""A real redis-server on loopback, for tests."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis


class RedisServer:
    """A server in its own folder, which survives `kill` and `start`. Use it as a context manager."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        appendfsync: str = "everysec",
        program: str = "redis-server",
    ) -> None:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt-get install redis-server")
        self._program = program
        self._folder = folder
        self._options: Sequence[str] = ("--appendfsync", appendfsync, *options)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """The URL for a store."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client for the test itself."""
        return redis.Redis(port=self.port)

    def start(self) -> None:
        """Starts the server, and waits until it has read its log and answers."""
        self._start(b"Ready to accept connections")

    def begin(self, *options: str) -> None:
        """Starts the server, and waits until it listens. It may still read its log."""
        self._start(b"Server initialized", *options)

    def _start(self, until: bytes, *options: str) -> None:
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "yes", "--dir", str(self._folder)]
        command += [*self._options, *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line.decode(errors="replace"))
            if until in line:
                return
        self.kill()
        raise AssertionError("redis-server did not start:\n" + "".join(said))

    @property
    def is_running(self) -> bool:
        """True between `start` and `kill`."""
        return self._process is not None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP. It accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
