"""(h) What a server takes before anybody comes: time to be ready with the zoo, memory, and `--help`."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from . import processes
from .figures import Measured, Workload
from .memory import resident_bytes
from .report import Summary

ZOO = Path(__file__).parents[1] / "models" / "zoo"
READY_S, IDLE_MB, HELP_S = 3.0, 400.0, 0.3
"""The targets."""


def workloads(
    _options: argparse.Namespace,
    device: str,
    _folder: Path,
    _stack: ExitStack,
    _runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Each round starts a process of each kind."""
    return [
        Workload("server with the zoo", lambda: _server(device)),
        Workload("carousel --help", _help),
    ]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Each over its target."""
    server = figures["server with the zoo"]
    yield f"ready, over {READY_S} s", server["ready_s"]["median"] / READY_S
    yield f"idle memory, over {IDLE_MB:.0f} MB", server["idle_mb"]["median"] / IDLE_MB
    help_s = figures["carousel --help"]["help_s"]["median"]
    yield f"--help, over {HELP_S} s", help_s / HELP_S


def _server(device: str) -> Measured:
    """From the start of the process to the first health check that says SERVING."""
    began = time.perf_counter()
    with (
        processes.carousel_process(ZOO, device) as (process, address),
        grpc.insecure_channel(address) as channel,
    ):
        request = health_pb2.HealthCheckRequest()
        check = cast(Any, health_pb2_grpc.HealthStub(channel)).Check
        health = check(request, timeout=30, wait_for_ready=True)
        assert health.status == health_pb2.HealthCheckResponse.SERVING, "listens and does not serve"
        ready_s = time.perf_counter() - began
        return {"ready_s": ready_s, "idle_mb": resident_bytes(process.pid) / 1e6}


def _help() -> Measured:
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("carousel")), "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"help_s": time.perf_counter() - began}
