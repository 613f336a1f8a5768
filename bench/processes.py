"""Servers under test, as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def carousel_server(models: Path, device: str) -> Iterator[str]:
    """A Carousel server as an operator would start it; yields its address."""
    flags = ["--models", str(models), "--device", device, "--port", "0", "--metrics-port", "0"]
    with _process("carousel_server", *flags) as address:
        yield address


@contextmanager
def echo_server() -> Iterator[str]:
    """The echo server; yields its address."""
    with _process("bench.echo") as address:
        yield address


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[str]:
    """Starts a module that prints one JSON line with its port when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} did not start; run it by hand to see why")
        yield f"127.0.0.1:{json.loads(line)['port']}"
    finally:
        process.terminate()
        process.wait(timeout=30)
