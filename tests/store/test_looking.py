"""What `carousel doctor` says of a store, and that it leaves no trace."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from support.redis import RedisServer
from support.redis_cluster import ClusterServers

from carousel_server.store import Fact, SqliteStore, StoreError, look_at_store, looking
from carousel_server.store.looking import locked_by


def facts(url: str) -> dict[str, Fact]:
    return {fact.what: fact for fact in look_at_store(url)}


def test_memory() -> None:
    assert facts("memory")["store"].fix == ""


def test_an_unknown_kind() -> None:
    with pytest.raises(StoreError, match="kind of store is unknown"):
        facts("postgres://db")


def test_a_new_file(tmp_path: Path) -> None:
    found = facts(f"sqlite:{tmp_path}/new.db")
    assert found["store"].found.endswith("a server will make it")
    assert found["store driver"].found == f"SQLite {sqlite3.sqlite_version}"
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_use(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = SqliteStore(path, owner="one")
    try:
        before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
        found = facts(f"sqlite:{path}")["store"].found
        assert f"in use by process {os.getpid()}" in found
        assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    finally:
        store.close()
    assert "in use" not in facts(f"sqlite:{path}")["store"].found


@pytest.mark.parametrize(
    ("contents", "cause"),
    [(b"text " * 40, "is not a store, or is damaged"), (b"SQLite format 3\0", "damaged")],
)
def test_a_file_that_is_no_store(tmp_path: Path, contents: bytes, cause: str) -> None:
    (tmp_path / "s.db").write_bytes(contents)
    with pytest.raises(StoreError, match=cause):
        facts(f"sqlite:{tmp_path}/s.db")


@pytest.mark.parametrize(
    ("marks", "cause"),
    [
        ("PRAGMA application_id = 77", "another program's database"),
        (f"PRAGMA application_id = {0x4352534C}; PRAGMA user_version = 99", "has version 99"),
    ],
)
def test_a_file_with_other_marks(tmp_path: Path, marks: str, cause: str) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as db:
        db.executescript(f"CREATE TABLE t (x); {marks};")
    db.close()
    with pytest.raises(StoreError, match=cause):
        facts(f"sqlite:{path}")


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mkdir -p"):
        facts(f"sqlite:{tmp_path}/none/s.db")
    with pytest.raises(StoreError, match="is a folder"):
        facts(f"sqlite:{tmp_path}")


@pytest.mark.parametrize("denied", ["folder", "file"])
def test_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str) -> None:
    path = tmp_path / "s.db"
    SqliteStore(path, owner="one").close()
    place = {"folder": tmp_path, "file": path}[denied]
    monkeypatch.setattr(looking.os, "access", lambda file, _mode: file != place)
    with pytest.raises(StoreError, match="permission denied"):
        facts(f"sqlite:{path}")


def test_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "LITTLE_SPACE_BYTES", 1 << 62)
    assert "free some space" in facts(f"sqlite:{tmp_path}/s.db")["store space"].fix


def test_locks_are_read_from_the_kernel_s_list(tmp_path: Path) -> None:
    file, locks = tmp_path / "s.db.lock", tmp_path / "locks"
    file.touch()
    inode = file.stat().st_ino
    lines = (
        f"1: FLOCK  ADVISORY  WRITE 71 08:01:{inode} 0 EOF\n"
        f"1: -> FLOCK  ADVISORY  WRITE 72 08:01:{inode} 0 EOF\n"
        "2: POSIX  ADVISORY  READ 73 08:01:1 0 EOF\n"
    )
    locks.write_text(lines)
    assert locked_by(file, locks) == [71]
    assert locked_by(file, tmp_path / "none") == []


def test_redis(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        client = server.client()
        found = facts(server.url)
        assert "standalone, a primary" in found["store"].found
        assert found["store memory"].fix == ""
        assert "appendonly yes" in found["store disk"].found
        assert found["store clock"].found.endswith("s against this machine")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        found = facts(server.url)
        assert "noeviction" in found["store memory"].fix
        assert "appendonly yes" in found["store disk"].fix
        assert client.dbsize() == 0
        assert client.function_list() == []
        client.close()


def test_a_clock_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer(tmp_path) as server:
        monkeypatch.setattr(looking.time, "time", lambda: 1e9)
        assert "NTP" in facts(server.url)["store clock"].fix


def test_a_replica(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with (
        RedisServer(tmp_path / "one") as primary,
        RedisServer(tmp_path / "two", "--replicaof", f"127.0.0.1 {primary.port}") as replica,
        pytest.raises(StoreError, match="is a replica of"),
    ):
        facts(replica.url)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("redis://:secret@127.0.0.1:1/0", "cannot be reached"),
        ("redis+cluster://:secret@127.0.0.1:1", "cannot be reached"),
        ("redis+sentinel://:secret@127.0.0.1:1/name", "Sentinels"),
    ],
)
def test_a_redis_that_is_not_there(url: str, cause: str) -> None:
    with pytest.raises(StoreError, match=cause) as raised:
        facts(url)
    assert "secret" not in str(raised.value)


def test_a_single_redis_is_no_cluster(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, pytest.raises(StoreError, match="a single Redis"):
        facts(f"redis+cluster://127.0.0.1:{server.port}")


def test_a_cluster(tmp_path: Path) -> None:
    with ClusterServers(tmp_path, primaries=3, replicas=0) as servers:
        found = look_at_store(servers.url)
        assert [fact.what for fact in found].count("store") == 3
        assert all("cluster, a primary" in fact.found for fact in found if fact.what == "store")
        for node in servers.nodes:
            with node.client() as client:
                assert client.dbsize() == 0
                assert client.function_list() == []


def test_a_node_of_a_cluster(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--cluster-enabled", "yes") as server:
        with pytest.raises(StoreError, match="a node of a Redis Cluster"):
            facts(server.url)
        with pytest.raises(StoreError, match="slots without an owner"):
            facts(f"redis+cluster://127.0.0.1:{server.port}")
