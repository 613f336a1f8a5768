"""(w) The wire alone, on both transports: an engine that answers at once, and thin clients.

Streams with one session each send a message a step; streams with 64 sessions send blocks of all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path

from carousel_server.wire.transport import chosen_transport

from . import models, processes
from .figures import Measured, Workload
from .pressing import Pressure
from .report import Summary

SHAPES = ((1, 1), (64, 1), (256, 1), (16, 64))
"""Streams, and sessions of each."""

_GRPCIO = ("grpcio", "grpcio-health-checking", "grpcio-reflection", "grpcio-status")

_QUANTITIES = {"steps_per_s": "steps per second", "cpu_us": "the server's processor time a step"}


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Each shape on both transports, one after the other; only grpc.aio where there is no native one.

    `--grpcio` adds servers on grpc.aio of other versions.
    """
    transports = dict.fromkeys((chosen_transport("auto").name, "python"))
    started = {who: stack.enter_context(processes.instant_server(who)) for who in transports}
    for version in options.grpcio:
        others = _installed(version, folder)
        server = processes.instant_server("python", PYTHONPATH=str(others))
        started[f"grpcio {version}"] = stack.enter_context(server)

    def pressed(who: str, streams: int, sessions: int) -> Callable[[], Measured]:
        process, address = started[who]
        pressure = Pressure(
            address, models.STEPPED, models.WIDTH * 4, options.seconds, streams, sessions
        )
        return lambda: _pressed(process.pid, pressure)

    return [
        Workload(_name(who, *shape), pressed(who, *shape))
        for shape, who in product(SHAPES, started)
    ]


def _installed(version: str, folder: Path) -> Path:
    """A folder with another version of grpcio, from the package index."""
    target = folder / f"grpcio-{version}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={target}"]
    subprocess.run([*command, *(f"{name}=={version}" for name in _GRPCIO)], check=True)
    return target


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """The native transport, and other versions of grpcio, over the installed grpcio."""
    others = dict.fromkeys(name.partition(":")[0] for name in figures)
    others.pop("python", None)
    for shape, who, (quantity, word) in product(SHAPES, others, _QUANTITIES.items()):
        this, python = figures[_name(who, *shape)], figures[_name("python", *shape)]
        ratio = this[quantity]["median"] / python[quantity]["median"]
        yield f"{_shape(*shape)}: {who} over grpc.aio ({word})", ratio


def _pressed(server: int, pressure: Pressure) -> Measured:
    """Loads from a process of its own; the server's processor time is of the measured while."""
    command = [sys.executable, "-m", "bench.pressing", json.dumps(asdict(pressure))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the load did not start")
        began_s, before_s = time.perf_counter(), processes.cpu_s(server)
        time.sleep(pressure.seconds)
        used = (processes.cpu_s(server) - before_s) / (time.perf_counter() - began_s)
        output, _ = process.communicate(timeout=120)
    if process.returncode:
        raise RuntimeError("the load has failed")
    seen = json.loads(output)
    rate = seen["goodput_rows_per_s"]
    return {
        "steps_per_s": rate, "cpu_us": 1e6 * used / rate, "p50_ms": seen["p50_ms"],
        "p99_ms": seen["p99_ms"],
    }  # fmt: skip


def _name(who: str, streams: int, sessions: int) -> str:
    return f"{who}: {_shape(streams, sessions)}"


def _shape(streams: int, sessions: int) -> str:
    return f"{streams} streams × {sessions}"
