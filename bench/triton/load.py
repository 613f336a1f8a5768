"""perf_analyzer: one load against one address, and its results as numbers."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .wheels import Unpacked

_STEPS_OF_DATA = 50
_KEPT_OUTPUT = 2000
_WATCH_EVERY_S = 1.0


class LoadFailedError(RuntimeError):
    """perf_analyzer ended with an error, or did not end; its last words are the message."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: sequences of steps, closed loop or open.

    Attributes:
        model, width: whose input `x` is float32[width].
        concurrency: sequences in flight, each with one step on its way (closed loop).
        rate_per_s: steps per second, Poisson (open loop), in place of `concurrency`.
        sequences: how many sequences share `rate_per_s`.
        sequence_steps: mean length of a sequence; `variation` of it each way, in percent.
        seconds: of one measurement; `trials` of them, at least 3, whose mean is reported.
        stability: in percent; so large that no measurement is thrown away for being unlike another.
        streaming: ModelStreamInfer; else unary ModelInfer.
    """

    model: str
    width: int
    concurrency: int = 1
    rate_per_s: float = 0.0
    sequences: int = 64
    sequence_steps: int = 50
    variation: int = 20
    seconds: float = 2.0
    trials: int = 3
    stability: int = 100_000
    streaming: bool = True
    input_name: str = "x"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Steps per second, and quantiles of a step's latency in milliseconds."""

    steps_per_s: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


def run_load(
    parts: Unpacked, address: str, load: Load, serving: Callable[[], bool] = lambda: True
) -> LoadResult:
    """Runs perf_analyzer; gives it up once `serving` is false, since it waits for a dead server.

    Raises:
        LoadFailedError: a request failed, the server crashed, or the load did not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder, "data.json"), Path(folder, "report.csv")
        data.write_text(json.dumps(_data(load)))
        command = [str(parts.perf_analyzer), *_arguments(address, load)]
        command += ["--input-data", str(data), "-f", str(report)]
        output = _run(parts, command, 60 + 3 * load.trials * load.seconds, serving)
        if not report.is_file():
            raise LoadFailedError(output[-_KEPT_OUTPUT:])
        return parse(report.read_text())


def _run(parts: Unpacked, command: list[str], most_s: float, serving: Callable[[], bool]) -> str:
    """Runs a command until it ends, the server is gone, or `most_s` is over; returns its output."""
    libraries = {"LD_LIBRARY_PATH": str(parts.client_libraries)}
    end_s = time.monotonic() + most_s
    with subprocess.Popen(
        command, env=os.environ | libraries, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        while True:
            try:
                output, _ = process.communicate(timeout=_WATCH_EVERY_S)
            except subprocess.TimeoutExpired as late:
                if time.monotonic() < end_s and serving():
                    continue
                process.kill()
                why = "did not end" if time.monotonic() >= end_s else "was left: the server died"
                raise LoadFailedError(f"perf_analyzer {why}") from late
            if process.returncode:
                raise LoadFailedError(output[-_KEPT_OUTPUT:])
            return output


def parse(report: str) -> LoadResult:
    """The last line of a report that perf_analyzer has written with -f.

    Raises:
        LoadFailedError: it has none.
    """
    rows = list(csv.DictReader(report.splitlines()))
    if not rows:
        raise LoadFailedError("perf_analyzer's report is empty")
    row = rows[-1]
    p50, p90, p95, p99 = (float(row[f"p{share} latency"]) / 1e3 for share in (50, 90, 95, 99))
    return LoadResult(float(row["Inferences/Second"]), p50, p90, p95, p99)


def _arguments(address: str, load: Load) -> list[str]:
    arguments = [
        "-m", load.model, "-u", address, "-i", "grpc",
        "--sequence-length", str(load.sequence_steps),
        "--sequence-length-variation", str(load.variation),
        "--sequence-id-range", "1:100000",
        "-p", str(round(load.seconds * 1e3)),
        "-r", str(load.trials), "-s", str(load.stability),
    ]  # fmt: skip
    if load.streaming:
        arguments.append("--streaming")
    if load.rate_per_s:
        arguments += ["--request-rate-range", f"{load.rate_per_s:g}"]
        arguments += ["--request-distribution", "poisson"]
        arguments += ["--num-of-sequences", str(load.sequences), "--serial-sequences"]
    else:
        arguments += ["--concurrency-range", str(load.concurrency)]
    return arguments


def _data(load: Load) -> dict[str, object]:
    """One stream of ordinary rows: perf_analyzer's own random bits hold NaN and denormal numbers."""
    draw = random.Random(1)
    rows = [[draw.gauss(0.0, 1.0) for _ in range(load.width)] for _ in range(_STEPS_OF_DATA)]
    return {"data": [[{load.input_name: row} for row in rows]]}
