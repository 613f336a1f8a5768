"""The costs of requests are counted by the servers themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import store_cost
from support.redis import RedisServer
from support.redis_cluster import ClusterServers

SESSIONS, SNAPSHOT_BYTES = 32, 1000


def costs(url: str) -> dict[str, store_cost.Cost]:
    found = store_cost.measure(url, sessions=SESSIONS, snapshot_bytes=SNAPSHOT_BYTES, rounds=5)
    return {one.what: one for one in found}


def test_one_server(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        found = costs(server.url)
        with server.client() as client:
            left = [key for key in client.scan_iter() if b":ended:" not in key]
    assert [one.rpartition(b":")[2] for one in left] == [b"layout"], "nothing else is left behind"
    commit = found[f"commit, {SESSIONS} in a group"]
    assert commit.calls == 2 / SESSIONS, "16 sessions in a call"
    assert SNAPSHOT_BYTES < commit.bytes_in < SNAPSHOT_BYTES + 400
    assert 0 < commit.bytes_out < 100
    assert found["acquire"].calls == found["remove"].calls == 1
    for what in ("renew", "replicas", "look into the mailbox"):
        assert found[what].calls == 1
    assert all(one.server_us >= 0 and one.wall_us > 0 for one in found.values())


def test_a_cluster(tmp_path: Path) -> None:
    with ClusterServers(tmp_path, replicas=0) as servers:
        found = costs(f"{servers.url}?shards=6")
    assert found["renew"].calls == found["sweep"].calls == 6, "one in each shard"
    for what in ("acquire", "replicas", "look into the mailbox"):
        assert found[what].calls == 1
    assert 6 / SESSIONS <= found[f"commit, {SESSIONS} in a group"].calls <= 8 / SESSIONS


def test_the_table_has_a_row_for_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer(tmp_path) as server:
        arguments = ["x", server.url, "--sessions=4", "--rounds=2", "--snapshot-bytes=10"]
        monkeypatch.setattr("sys.argv", arguments)
        assert store_cost.main() == 0
        shown = capsys.readouterr().out
    assert f"redis at 127.0.0.1:{server.port}" in shown
    for row in ("acquire", "commit, 4 in a group", "renew", "look into the mailbox", "remove"):
        assert row in shown
