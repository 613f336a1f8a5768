"""Steps of many sessions in one message, as a gateway of hundreds of sensors sends them.

python examples/many_sessions.py [host:port]
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

import numpy as np

import carousel

SESSIONS, STEPS, BLOCKS = 100, 16, 10


def main(target: str) -> None:
    rng = np.random.default_rng(0)
    with carousel.Client(target) as client, ExitStack() as stack:
        sessions = [stack.enter_context(client.session("sunspots-gru")) for _ in range(SESSIONS)]
        batch = client.batch(sessions)
        began_s = time.monotonic()
        for _ in range(BLOCKS):
            rows = rng.uniform(0, 150, (SESSIONS, STEPS, 1))
            forecasts = batch.steps(rows)  # [sessions, steps, outputs]
        seconds = time.monotonic() - began_s
        total = SESSIONS * STEPS * BLOCKS
        print(f"{total} steps of {SESSIONS} sessions, {total / seconds:.0f} a second")
        print(f"the first session expects {forecasts[0, -1, 0]:.1f}")

        # The failure of one session does not fail the others.
        rows[3] = np.nan
        try:
            batch.steps(rows)
        except carousel.BatchStepError as error:
            print(f"session {list(error.errors)} failed, {len(error.outputs)} rows came")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["localhost:50051"]))
