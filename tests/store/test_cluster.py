"""A cluster loses servers, moves slots and is emptied, while commits go on: no step is lost or doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot
from support.redis_cluster import ClusterServers, wait_until

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Announcement, Holding, Outcome, SessionKey, Verdict
from carousel_server.store import StoreError
from carousel_server.store.faults import ShardFault
from carousel_server.store.redis import RedisStore
from carousel_server.store.redis_cluster import ClusterLink
from carousel_server.store.redis_keys import Keys, tags_of
from carousel_server.store.redis_node import LIBRARY

from .media import ALICE, BOB, KEY, NEW, InCluster, commit
from .programs import PROGRAMS, program

KEYS = [SessionKey("tenant", f"s{number}") for number in range(24)]
TTL_S = 8.0


@pytest.fixture(params=PROGRAMS)
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterServers]:
    """A cluster that the test may break."""
    with ClusterServers(tmp_path, program=program(request.param)) as made:
        yield made


@pytest.fixture
def store(servers: ClusterServers) -> Iterator[RedisStore]:
    made = RedisStore(f"{servers.url}?shards=12", ALICE, TTL_S)
    for key in KEYS:
        made.acquire(key, epoch_floor=0, new=NEW)
    yield made
    made._link.close()


def shard_keys(store: RedisStore, *, of: SessionKey) -> str:
    """A key of a session, to find its server."""
    return store._keys.of(of).session(of)


class Load:
    """Commits the next step of every session, and repeats those that the store did not answer."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.done = dict.fromkeys(KEYS, 0)
        self.refused: list[Outcome] = []
        self.reasons: set[str] = set()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def rounds(self, count: int) -> None:
        """Waits until every session has committed so many more steps."""
        goal = {key: seq + count for key, seq in self.done.items()}
        wait_until(
            lambda: all(self.done[key] >= seq for key, seq in goal.items()), "commits stand still"
        )

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                outcomes = self._store.commit(
                    [commit(self.done[key] + 1, key=key) for key in KEYS], fsync=False
                )
                self._store.renew()
            except CarouselError as error:
                self.reasons.add(error.reason)
                continue
            for key, outcome in zip(KEYS, outcomes, strict=True):
                if outcome.verdict is Verdict.UNANSWERED:
                    continue
                if outcome == Outcome(Verdict.DONE, 1, self.done[key] + 1):
                    self.done[key] += 1
                else:
                    self.refused.append(outcome)


def check(store: RedisStore, load: Load) -> None:
    """The store has the last confirmed step of every session, or the one that was in flight."""
    assert load.refused == []
    assert load.reasons <= {"STORE_UNAVAILABLE"}
    for key in KEYS:
        assert store.read(key).seq - load.done[key] in (0, 1)
    assert [one.key for one in store.list("tenant", "", 100)] == sorted(KEYS)
    assert store.statistics().sessions == len(KEYS)


def again(work: Callable[[], object]) -> None:
    """Repeats a request until the store answers, as clients do."""

    def answered() -> bool:
        try:
            work()
        except CarouselError as error:
            if error.reason != "STORE_UNAVAILABLE":
                raise
            return False
        return True

    wait_until(answered, "the store does not come back")


# -- with load


def test_a_replica_takes_over_while_steps_are_committed(
    servers: ClusterServers, store: RedisStore
) -> None:
    with Load(store) as load:
        load.rounds(3)
        for node in servers.nodes[:2]:
            with node.client() as client:
                client.wait(1, 10_000)
            servers.fail_over(node)
            load.rounds(3)
    check(store, load)
    again(lambda: store.acquire(SessionKey("tenant", "new"), epoch_floor=0, new=NEW))


def test_slots_move_while_steps_are_committed(servers: ClusterServers, store: RedisStore) -> None:
    moved = shard_keys(store, of=KEYS[0])
    source = servers.owner(moved)
    target = next(node for node in servers.nodes[:3] if node is not source)
    with Load(store) as load:
        load.rounds(2)
        servers.move(moved, target, meanwhile=lambda: load.rounds(3))
        load.rounds(2)
    assert servers.owner(moved) is target
    check(store, load)
    for key in KEYS:
        again(lambda key=key: store.release([Holding(key, 1, store.now_unix_s())]))  # type: ignore[misc]
    again(lambda: store.acquire(KEYS[0], epoch_floor=0, new=None))


def test_a_new_server_gets_the_functions(servers: ClusterServers, store: RedisStore) -> None:
    """They do not come with the slots."""
    owner = servers.owner(shard_keys(store, of=KEY))
    with owner.client() as client:
        client.function_delete(LIBRARY)
    for seq in (1, 2):
        outcomes = store.commit([commit(seq, key=key) for key in KEYS], fsync=False)
        assert outcomes == [Outcome(Verdict.DONE, 1, seq)] * len(KEYS)


def test_an_emptied_shard_fences_its_own_sessions_only(
    servers: ClusterServers, store: RedisStore
) -> None:
    owner = servers.owner(shard_keys(store, of=KEYS[0]))
    theirs = [key for key in KEYS if servers.owner(shard_keys(store, of=key)) is owner]
    assert 0 < len(theirs) < len(KEYS)
    with owner.client() as client:
        client.flushall()
    outcomes = store.commit([commit(1, key=key) for key in KEYS], fsync=False)
    for key, outcome in zip(KEYS, outcomes, strict=True):
        lost = Outcome(Verdict.FENCED, 0, 0)
        assert outcome == (lost if key in theirs else Outcome(Verdict.DONE, 1, 1))
    assert not store.renew(), "the lease was lost there too"
    assert store.renew()
    assert store.acquire(KEYS[0], epoch_floor=7, new=NEW).epoch == 8


# -- a server that does not answer


def test_a_stopped_server_holds_up_the_others_once(
    servers: ClusterServers, store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    owner = servers.owner(shard_keys(store, of=KEYS[0]))
    theirs = {key for key in KEYS if servers.owner(shard_keys(store, of=key)) is owner}
    link = store._link
    assert isinstance(link, ClusterLink)
    owner.pause()
    try:
        outcomes = store.commit([commit(1, key=key) for key in KEYS], fsync=False)
        verdicts = dict(zip(KEYS, (one.verdict for one in outcomes), strict=True))
        assert {key for key, one in verdicts.items() if one is Verdict.UNANSWERED} == theirs
        assert set(verdicts.values()) == {Verdict.UNANSWERED, Verdict.DONE}
        assert "does not answer: its sessions wait" in caplog.text
        assert ("127.0.0.1", owner.port) in link._away.addresses or not link._away.addresses
        with pytest.raises(CarouselError, match="STORE_UNAVAILABLE"):
            store.list("tenant", "", 100)
    finally:
        owner.resume()
    again(lambda: store.acquire(KEYS[0], epoch_floor=0, new=NEW))
    wait_until(lambda: not link._away.addresses, "it stays away")


def test_other_shards_serve_while_one_has_no_server(tmp_path: Path) -> None:
    """Its sessions are refused by name, and all others go on."""
    # With everysec, a kill loses what waits for a slow disk.
    with ClusterServers(tmp_path, replicas=0, appendfsync="always") as servers:
        store = RedisStore(f"{servers.url}?shards=12", ALICE, TTL_S)
        said = Announcement("a:1")
        store.renew(said)
        for key in KEYS:
            store.acquire(key, epoch_floor=0, new=NEW)
        owner = servers.owner(shard_keys(store, of=KEYS[0]))
        theirs = [key for key in KEYS if servers.owner(shard_keys(store, of=key)) is owner]
        owner.kill()
        with pytest.raises(ShardFault, match="STORE_UNAVAILABLE") as error:
            store.read(KEYS[0])
        assert error.value.retry_after_s
        for seq in (1, 2):
            outcomes = store.commit([commit(seq, key=key) for key in KEYS], fsync=False)
            for key, outcome in zip(KEYS, outcomes, strict=True):
                assert (outcome.verdict is Verdict.UNANSWERED) == (key in theirs)
        with pytest.raises(CarouselError, match="STORE_UNAVAILABLE"):
            store.renew(said)
        assert [one.name for one in store.replicas()] == [ALICE]
        assert store.sweep(store.now_unix_s(), 10) == 0
        for node in servers.nodes:
            node.kill()
        with pytest.raises(CarouselError, match="STORE_UNAVAILABLE"):
            store.commit([commit(3, key=key) for key in KEYS], fsync=False)
        with pytest.raises(CarouselError, match="the store does not answer") as error_of_all:
            store.read(KEYS[0])
        assert not isinstance(error_of_all.value, ShardFault), "it is an outage"
        for node in servers.nodes:
            node.start()
        again(lambda: store.renew(said))
        assert store.read(KEYS[0]).seq == 0, "its log has the session"
        store.close()


# -- keys and shards


def test_the_slots_of_the_tags_are_evenly_spread() -> None:
    for shards in (2, 7, 64, 256):
        slots = [key_slot(tag.encode()) for tag in tags_of("carousel", shards)]
        assert [slot * shards // 16_384 for slot in slots] == list(range(shards))


def test_one_shard_has_the_keys_of_stores_from_before() -> None:
    (shard,) = Keys(tags_of("carousel", 1)).shards
    assert shard.session(KEY) == "{carousel}:session:tenant/s1"


def test_sessions_spread_over_the_shards() -> None:
    keys = Keys(tags_of("carousel", 8))
    counts = dict.fromkeys(keys.shards, 0)
    for number in range(800):
        counts[keys.of(SessionKey("t", f"session-{number}"))] += 1
    assert min(counts.values()) > 70
    assert max(counts.values()) < 130


def test_the_number_of_shards_never_changes(in_cluster: InCluster) -> None:
    store = in_cluster.open()
    store.acquire(KEY, epoch_floor=0, new=NEW)
    url = in_cluster.servers.url
    same = RedisStore(url, BOB, 30.0, prefix=in_cluster.prefix)
    assert len(same._keys.shards) == 6
    assert same.read(KEY).epoch == 1
    same.close()
    with pytest.raises(StoreError) as error:
        RedisStore(f"{url}?shards=7", BOB, 30.0, prefix=in_cluster.prefix)
    cause, fix = str(error.value).splitlines()
    assert cause == "the store was made with shards=6, and its URL says 7"
    assert "shards=6" in fix


def test_a_new_cluster_store_has_64_shards(cluster_servers: ClusterServers) -> None:
    store = RedisStore(cluster_servers.url, ALICE, 30.0, prefix="fresh")
    assert len(store._keys.shards) == 64
    assert {owner.port for owner in map(cluster_servers.owner, (s.expiry for s in store._keys.shards))} == {
        node.port for node in cluster_servers.nodes
    }  # fmt: skip
    store.close()


# -- opening


def refused(url: str) -> str:
    with pytest.raises(StoreError) as error:
        RedisStore(url, ALICE, 1.0)
    cause, fix = str(error.value).splitlines()
    assert cause
    assert fix
    return str(error.value)


def test_a_single_server_is_no_cluster(in_redis: object, redis_server: object) -> None:
    port = redis_server.port  # type: ignore[attr-defined]
    text = refused(f"redis+cluster://127.0.0.1:{port}")
    assert "is a single Redis, and not of a cluster" in text
    assert "redis://HOST:PORT/0" in text


def test_a_cluster_with_free_slots_is_refused(tmp_path: Path) -> None:
    with ClusterServers(tmp_path, primaries=1, replicas=0) as servers:
        with servers.nodes[0].client() as client:
            client.execute_command("CLUSTER", "DELSLOTS", 16_383)
        assert "has slots without an owner" in refused(servers.url)


def test_one_node_of_the_url_is_enough(cluster_servers: ClusterServers) -> None:
    node = cluster_servers.nodes[2]
    store = RedisStore(f"redis+cluster://127.0.0.1:1,127.0.0.1:{node.port}", ALICE, 9.0, prefix="o")
    assert store.renew()
    store.close()
    assert "cannot be reached" in refused("redis+cluster://127.0.0.1:1,127.0.0.1:2")
