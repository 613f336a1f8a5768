"""(x) The HTTP door beside an echo of the same stack, with an engine that answers at once.

Rows go as JSON and as bytes.
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
from pathlib import Path

import numpy as np

from . import http_echo, processes
from .figures import Measured, Workload
from .models import WIDTH
from .posting import Posts
from .report import Summary

MOST = 1.3
"""The target: processor time of a request over the echo's."""
ROWS = (1, 64)
_DOOR, _ECHO = "carousel", "echo"


def workloads(
    options: argparse.Namespace,
    _device: str,
    _folder: Path,
    stack: ExitStack,
    _runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Each body to both, one after the other."""
    servers = {
        _DOOR: stack.enter_context(processes.instant_server("http")),
        _ECHO: stack.enter_context(processes.http_echo()),
    }
    found = []
    for form, (kind, body) in bodies().items():
        for who, (process, address) in servers.items():
            posts = Posts(address, http_echo.PATH, kind, body, options.seconds)
            found.append(Workload(f"{who}: {form}", _posting(process.pid, posts)))
    return found


def bodies() -> dict[str, tuple[str, str]]:
    """By name: the content type, and the body as latin-1."""
    found = {}
    for count in ROWS:
        rows = np.random.default_rng(count).standard_normal((count, WIDTH)).astype("<f4")
        numbers = json.dumps({"inputs": rows.round(4).astype(float).round(4).tolist()})
        found[f"{count} rows as JSON"] = ("application/json", numbers)
        found[f"{count} rows as bytes"] = (
            "application/octet-stream", rows.tobytes().decode("latin-1"),
        )  # fmt: skip
    return found


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """The door over the echo."""
    for form in bodies():
        door, echo = figures[f"{_DOOR}: {form}"], figures[f"{_ECHO}: {form}"]
        ratio = door["cpu_us"]["median"] / echo["cpu_us"]["median"]
        yield f"{form}: processor time a request over the echo's (at most {MOST})", ratio


def _posting(server: int, posts: Posts) -> Callable[[], Measured]:
    def measure() -> Measured:
        command = [sys.executable, "-m", "bench.posting", json.dumps(asdict(posts))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            began_s, before_s = time.perf_counter(), processes.cpu_s(server)
            time.sleep(posts.seconds * 0.9)  # the load has not ended then
            used = (processes.cpu_s(server) - before_s) / (time.perf_counter() - began_s)
            output, _ = process.communicate(timeout=120)
        if process.returncode:
            raise RuntimeError("the load has failed")
        seen: Measured = json.loads(output)
        return {**seen, "cpu_us": 1e6 * used / seen["requests_per_s"]}

    return measure
