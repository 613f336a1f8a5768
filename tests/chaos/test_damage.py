"""A store that gives back something else than it was given: an error with a name, never another state."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.server import FEATURES, LSTM

import carousel
from carousel import exceptions

from .load import PATIENCE_S, RETRIES
from .servers import Site
from .tracks import StepTrack, check_steps

SESSIONS = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The store's file."""
    return tmp_path / "sessions.db"


@pytest.fixture
def site(models_dir: Path, path: Path) -> Iterator[Site]:
    """A server on that file."""
    with Site(models_dir, f"sqlite:{path}") as started:
        started.start()
        yield started


@pytest.fixture
def client(site: Site) -> Iterator[carousel.Client]:
    """Of that server, and of those that come after it."""
    with carousel.Client(site.target, timeout_s=PATIENCE_S, retries=RETRIES) as connected:
        yield connected


def step(session: carousel.Session, track: StepTrack, steps: int) -> None:
    """Goes on with a session."""
    track.got(session.steps(track.rows(track.count, steps)))


def test_a_store_that_went_back_is_data_loss_by_name(
    site: Site, client: carousel.Client, path: Path, tmp_path: Path, package: Path, quiet: str
) -> None:
    """A copy of yesterday is put back while the clients are there: they know that it is too old."""
    tracks = [StepTrack(f"s{n}", "sync", n) for n in range(SESSIONS)]
    sessions = [client.session(LSTM, session_id=t.id, durability="sync") for t in tracks]
    for session, track in zip(sessions, tracks, strict=True):
        step(session, track, 10)
    site.drain()
    copy = tmp_path / "yesterday.db"
    shutil.copy(path, copy)
    site.start()
    *older, untouched = zip(sessions, tracks, strict=True)
    for session, track in older:
        step(session, track, 10)
    newer = client.session(LSTM, session_id="newer", durability="sync")
    newer.step(np.zeros(FEATURES, np.float32))
    site.kill()
    for name in ("sessions.db", "sessions.db-wal", "sessions.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    shutil.copy(copy, path)
    site.start()
    for session, track in older:
        with pytest.raises(exceptions.DataLossError):
            session.step(track.rows(track.count, 1)[0])
    with pytest.raises(exceptions.DataLossError):
        newer.step(np.zeros(FEATURES, np.float32))
    step(*untouched, 10)  # nothing of it is lost
    check_steps(tracks, package, quiet)


def torn(snapshot: bytes) -> bytes:
    """Half of it was written."""
    return snapshot[: len(snapshot) // 2]


def flipped(snapshot: bytes) -> bytes:
    """One bit is another."""
    at = len(snapshot) * 2 // 3
    return snapshot[:at] + bytes([snapshot[at] ^ 4]) + snapshot[at + 1 :]


def zeroed(snapshot: bytes) -> bytes:
    """A hole in the file."""
    return bytes(len(snapshot))


def test_a_damaged_snapshot_is_named_and_harms_no_other(
    site: Site, client: carousel.Client, path: Path, package: Path, quiet: str
) -> None:
    tracks = [StepTrack(f"s{n}", "async", n) for n in range(SESSIONS)]
    sessions = [client.session(LSTM, session_id=t.id) for t in tracks]
    for session, track in zip(sessions, tracks, strict=True):
        step(session, track, 10)
    site.drain()
    damages = {"s1": torn, "s4": flipped, "s7": zeroed}
    with sqlite3.connect(path) as db:
        for name, damage in damages.items():
            row = db.execute("SELECT snapshot FROM sessions WHERE id = ?", (name,)).fetchone()
            values = (damage(row[0]), name)
            db.execute("UPDATE sessions SET snapshot = ? WHERE id = ?", values)
    db.close()
    site.start()
    for session, track in zip(sessions, tracks, strict=True):
        if track.id in damages:
            with pytest.raises(exceptions.SnapshotDamagedError):
                session.step(track.rows(track.count, 1)[0])
            with pytest.raises(exceptions.SnapshotDamagedError):
                client.attach(track.id)
        else:
            step(session, track, 10)
    check_steps(tracks, package, quiet)
