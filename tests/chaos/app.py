"""An application with journals, to be killed at any moment and started again.

Run as `python -m tests.chaos.app ADDRESS FOLDER SESSIONS STEPS`. Each line that it prints is one output that
it has got: session, seq, first seq of what it got together with it, bytes in hexadecimal. It knows nothing of
its former lives but the journals.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from support.server import LSTM

import carousel
from carousel import RetryPolicy

from .tracks import StepTrack

PATIENCE_S = 60.0
AHEAD = 8


def main(target: str, folder: str, sessions: int, steps: int) -> None:
    retries = RetryPolicy(attempts=100, max_delay_s=2.0, reconnect_s=PATIENCE_S)
    with carousel.Client(target, timeout_s=PATIENCE_S, retries=retries) as client:
        threads = [
            threading.Thread(target=_drive, args=(client, Path(folder), number, steps))
            for number in range(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _drive(client: carousel.Client, folder: Path, number: int, steps: int) -> None:
    """Goes on behind the last input that is in the journal, and hands out what was not asked past."""
    track = StepTrack(f"journal-{number}", "async", seed=number, resets=True)
    session = client.session(LSTM, session_id=track.id, journal=folder / track.id)
    first = session.submitted - session.unread + 1
    seqs = count(first)
    for output in session.replay():
        _tell(track.id, next(seqs), first, output)
    for output in session.stream(_rows(session, track, steps), ahead=AHEAD):
        seq = next(seqs)
        _tell(track.id, seq, seq, output)
    applied = session.info().applied
    assert applied == steps, f"{track.id}: applied {applied} of {steps}"
    session.detach()


def _rows(session: carousel.Session, track: StepTrack, steps: int) -> Iterator[np.ndarray]:
    for at in range(session.submitted, steps):
        if track.begins(at, 1)[0]:
            session.reset()
        yield track.rows(at, 1)[0]


def _tell(session_id: str, seq: int, first: int, output: np.ndarray) -> None:
    # One write, less than a pipe takes at once: it is told whole or not at all.
    os.write(1, f"{session_id} {seq} {first} {output.tobytes().hex()}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
