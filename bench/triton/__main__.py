"""`python -m bench.triton`: Triton alone under perf_analyzer, to see that both work on this machine."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench import models

from . import Load, TritonServer, missing, unpacked


def main() -> int:
    """Prints one line a load. Returns the exit code."""
    parts = unpacked()
    if reason := missing(parts):
        print(f"SKIPPED: {reason}")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = models.make(Path(name))
        with TritonServer(parts, folder / models.STEPPED, folder / "triton") as server:
            for streaming in (True, False):
                for concurrency in (1, 64):
                    load = Load(
                        models.STEPPED, models.WIDTH, concurrency=concurrency, streaming=streaming
                    )
                    print(load, server.measure(load), flush=True)
            print(f"{server.crashes} crashes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
