"""Servers under test, as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from . import native

StoreUrl = AbstractContextManager[str | None]
"""What a server's `store` setting may be; None where the machine has no such store."""


@contextmanager
def carousel_server(models: Path, device: str, **settings: object) -> Iterator[str]:
    """A Carousel server as an operator would start it; yields its address."""
    with carousel_process(models, device, **settings) as (_, address):
        yield address


@contextmanager
def carousel_process(
    models: Path, device: str, **settings: object
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The same; yields the process too."""
    given = {
        "models": models,
        "device": device,
        "port": 0,
        "metrics_port": 0,
        "http_port": "off",
        **settings,
    }
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]
    with _module("carousel_server", *flags) as started:
        yield started


def cpu_s(pid: int) -> float:
    """Processor seconds that a process and all those that it has started and that live have used."""
    ticks, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                ticks[int(entry.name)] = int(fields[11]) + int(fields[12])

    def is_ours(one: int) -> bool:
        while one and one != pid:
            one = parents.get(one, 0)
        return one == pid

    return sum(used for one, used in ticks.items() if is_ours(one)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def sqlite_file(path: Path) -> Iterator[str | None]:
    """A store in a new file."""
    yield f"sqlite:{path}"


@contextmanager
def redis_server(folder: Path, appendfsync: str = "always") -> Iterator[str | None]:
    """A redis-server; None without one. By default it syncs every write, so that all levels can be had."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    flags += ["--appendonly", "yes", "--appendfsync", appendfsync]
    process = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(port: int) -> None:
    """Returns once something listens."""
    deadline_s = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def echo_server() -> Iterator[str]:
    """The echo server; yields its address."""
    with _module("bench.echo") as (_, address):
        yield address


def http_echo() -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """The echo of the HTTP door's stack; yields the process and its address."""
    return _module("bench.http_echo")


def instant_server(
    transport: str, **environment: str
) -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """The wire in front of an engine that answers at once; yields the process and its address."""
    return _process(sys.executable, "-m", "bench.instant", transport, environment=environment)


@contextmanager
def padded_server(models: Path) -> Iterator[str]:
    """The server of padded batches; yields its address."""
    with _module("bench.padded", str(models)) as (_, address):
        yield address


@contextmanager
def triton_echo(about: str) -> Iterator[str]:
    """The echo of Triton's messages; `about` knows the model that it pretends to have."""
    with _module("bench.triton.echo", about) as (_, address):
        yield address


@contextmanager
def native_echo(figure: str, answers: Mapping[str, bytes]) -> Iterator[str | None]:
    """The echo in C++; yields its address, or None after it has told what is missing.

    Args:
        figure: who tells it.
        answers: the serialized answer to each SERVICE/METHOD that a client asks before the first step.
    """
    program, reason = None, ""
    try:
        program = native.program()
    except native.NativeEchoError as error:
        reason = str(error)
    if program is None:
        print(f"bench {figure}: SKIPPED: N2: {reason}", flush=True)
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        for method, answer in answers.items():
            file = Path(folder, method)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(answer)
        with _process(str(program), folder) as (_, address):
            yield address


def _module(
    name: str, *arguments: str
) -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """Starts a module of ours, likewise."""
    return _process(sys.executable, "-m", name, *arguments)


@contextmanager
def _process(
    *command: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Starts a program that prints one JSON line with its port when it is ready."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, **(environment or {})},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(command)} did not start; run it by hand to see why")
            yield process, f"127.0.0.1:{json.loads(line)['port']}"
        finally:
            process.terminate()
            process.wait(timeout=30)
