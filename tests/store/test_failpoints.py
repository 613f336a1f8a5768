"""At each failpoint the process dies, and the store has what it had promised by then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from carousel_server.core import failpoints
from carousel_server.core.failpoints import FAILPOINTS, armed, hit
from carousel_server.core.store import SessionKey

from .media import ALICE, InRedis, InSqlite

PROGRAM = """
import sys
from carousel_server.core.store import Acquire, Commit, CommitGroup, NewSession, SessionKey
from carousel_server.core.types import Durability
from carousel_server.store import StoreThread, SqliteStore
from pathlib import Path

kind, place, prefix = sys.argv[1:]
if kind == "sqlite":
    store = SqliteStore(Path(place))
else:
    from carousel_server.store.redis import RedisStore
    store = RedisStore(place, "alice:1", 30.0, prefix=prefix)
thread = StoreThread(store)
keys = [SessionKey("tenant", name) for name in ("a", "b")]
for key in keys:
    acquire = Acquire(key, 0, NewSession("m", Durability.SYNC, 1e6, 1, 1.0))
    thread.submit(acquire)
    thread.run_pending()
    print("acquired", flush=True)
for seq in (1, 2):
    group = CommitGroup([Commit(key, 1, seq, b"x", 1e10) for key in keys], fsync=False)
    thread.submit(group)
    thread.run_pending()
    print("committed", flush=True)
print("alive", flush=True)
"""


def run(kind: str, place: str, prefix: str, failpoint: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, place, prefix],
        env={**os.environ, "CAROUSEL_FAILPOINT": failpoint},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("failpoint", "told", "sqlite", "redis"),
    [
        ("", ["acquired", "acquired", "committed", "committed", "alive"], (2, 2), (2, 2)),
        ("after_acquire", [], (0, None), (0, None)),
        ("after_acquire:2", ["acquired"], (0, 0), (0, 0)),
        ("before_commit", ["acquired", "acquired"], (0, 0), (0, 0)),
        ("in_commit", ["acquired", "acquired"], (0, 0), (1, 0)),
        ("in_commit:2", ["acquired", "acquired", "committed"], (1, 1), (2, 1)),
        ("after_commit", ["acquired", "acquired"], (1, 1), (1, 1)),
        ("after_commit:2", ["acquired", "acquired", "committed"], (2, 2), (2, 2)),
    ],
)
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_is_there_after_death(
    in_sqlite: InSqlite,
    in_redis: InRedis,
    kind: str,
    failpoint: str,
    told: list[str],
    sqlite: tuple[int | None, ...],
    redis: tuple[int | None, ...],
) -> None:
    place = str(in_sqlite.path) if kind == "sqlite" else in_redis.server.url
    code, said = run(kind, place, in_redis.prefix, failpoint)
    assert code == (-signal.SIGKILL if failpoint else 0)
    assert said == told
    store = in_sqlite.open() if kind == "sqlite" else in_redis.open(ALICE)
    listed = {record.key.id: record.seq for record in store.list("tenant", "", 10)}
    assert (listed.get("a"), listed.get("b")) == (sqlite if kind == "sqlite" else redis)
    record = store.acquire(SessionKey("tenant", "a"), epoch_floor=0, new=None)
    assert record.epoch == 2


def test_an_unknown_place_is_an_error(tmp_path: Path) -> None:
    code, said = 0, ""
    done = subprocess.run(
        [sys.executable, "-c", "import carousel_server.core.failpoints"],
        env={**os.environ, "CAROUSEL_FAILPOINT": "in_comit"},
        capture_output=True,
        text=True,
        check=False,
    )
    code, said = done.returncode, done.stderr
    assert code == 1
    assert "in_comit" in said


def test_nothing_happens_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", "")
    for name in FAILPOINTS:
        assert not armed(name)
        hit(name)
