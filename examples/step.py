"""One session, one step at a time: the forecaster of the yearly sunspot number.

python examples/step.py [host:port]
"""

from __future__ import annotations

import sys

import carousel

YEARLY_SUNSPOTS = [5.0, 11.0, 16.0, 23.0, 36.0, 58.0, 29.0, 20.0, 10.0, 8.0]  # from 1700 on


def main(target: str) -> None:
    with carousel.Client(target) as client, client.session("sunspots-gru") as session:
        for year, count in enumerate(YEARLY_SUNSPOTS, 1700):
            forecast = session.step([count])  # the state stays on the server
            print(f"{year}: {count:5.1f} seen, {forecast[0]:6.1f} expected next")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["localhost:50051"]))
