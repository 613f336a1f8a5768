"""`python -m bench.triton`: perf_analyzer on Carousel and on Triton, alternately, with the same LSTM."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import models, processes

from . import Load, LoadFailedError, LoadResult, TritonServer, missing, run_load, unpacked

Measure = Callable[[Load], LoadResult]


def main() -> int:
    """Prints one line a measurement. Returns the exit code."""
    options = _options()
    parts = unpacked()
    if reason := missing(parts):
        print(f"SKIPPED: {reason}")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = models.make(Path(name) / "models")
        package = folder / models.STEPPED
        with (
            processes.carousel_server(folder, "cpu") as address,
            TritonServer(
                parts, package, Path(name) / "triton", queue_delay_us=options.queue_delay_us
            ) as triton,
        ):
            servers: dict[str, Measure] = {
                "carousel": lambda load: run_load(parts, address, load),
                "triton": triton.measure,
            }
            for number in range(1, options.rounds + 1):
                for load in _loads(options):
                    for server, measure in servers.items():
                        print(f"{number} {_name(load):24} {server:9} {_told(measure, load)}")
            print(f"triton crashed {triton.crashes} times")
    return 0


def _loads(options: argparse.Namespace) -> list[Load]:
    """Streams and calls in a closed loop, and streams in an open one."""
    model, width, seconds = models.STEPPED, models.WIDTH, options.seconds
    closed = [
        Load(model, width, concurrency=count, streaming=streaming, seconds=seconds)
        for streaming in (True, False)
        for count in options.sequences
    ]
    return [*closed, Load(model, width, rate_per_s=options.rate, seconds=seconds)]


def _name(load: Load) -> str:
    way = "streams" if load.streaming else "calls"
    return f"{load.rate_per_s:g}/s {way}" if load.rate_per_s else f"{load.concurrency} by {way}"


def _told(measure: Measure, load: Load) -> str:
    try:
        result = measure(load)
    except LoadFailedError as error:
        return f"FAILED: {str(error).strip().splitlines()[-1]}"
    return (
        f"{result.steps_per_s:8.0f} steps/s  p50 {result.p50_ms:7.2f}  p99 {result.p99_ms:7.2f} ms"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.triton", description=__doc__)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--rate", type=float, default=1000.0, help="steps per second, Poisson")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of three windows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--queue-delay-us", type=int, default=0, help="Triton's; 0 is its fastest at 1"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
