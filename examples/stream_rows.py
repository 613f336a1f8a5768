"""Sends rows as they come and gets outputs as they come, pipelined within the session's window.

python examples/stream_rows.py [host:port]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import carousel

STEPS = 200


def sensor() -> Iterator[list[float]]:
    """A source of rows. It could be a socket or a file as well."""
    for t in range(STEPS):
        yield [60.0 + 50.0 * math.sin(2 * math.pi * t / 11)]


def main(target: str) -> None:
    with carousel.Client(target) as client, client.session("sunspots-gru") as session:
        forecasts = [forecast[0] for forecast in session.stream(sensor())]
        print(f"{session.applied} rows went through; the last forecast is {forecasts[-1]:.1f}")

        # A live source needs each output before its next row. So only one step is in flight, not a window.
        for forecast, _ in zip(session.stream(sensor(), ahead=1), range(3), strict=False):
            print(f"live: {forecast[0]:.1f}")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["localhost:50051"]))
