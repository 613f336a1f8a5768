"""What a tenant has in a store, and what it may have."""

from __future__ import annotations

from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import Quota, TenantLimits
from carousel_server.core.store import Acquire, First, Remove, SessionKey, Store, StoreStatistics
from carousel_server.store import StoreThread
from carousel_server.store.memory import MemoryStore

from .media import NEW, commit
from .test_contract import open_session


def test_usage_is_of_one_tenant_and_of_open_sessions(store: Store) -> None:
    assert store.usage("tenant").sessions == 0
    key = open_session(store, "s1")
    open_session(store, "s2")
    open_session(store, "s1", tenant="other")
    store.commit([commit(7, snapshot=b"12345")], fsync=False)
    usage = store.usage("tenant")
    assert usage.sessions == 2
    assert usage.bytes in (5, -1)
    store.remove(key, 1, "SESSION_CLOSED")
    usage = store.usage("tenant")
    assert usage.sessions == 1
    assert usage.bytes in (0, -1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def thread(clock: Clock, **limits: int) -> StoreThread:
    return StoreThread(
        MemoryStore(),
        clock=clock,
        limits=TenantLimits(**limits),  # type: ignore[arg-type]
    )


def ask(store: StoreThread, request: Acquire | Remove) -> str:
    """The quota that was reached, or "" if the store has done what it was asked."""
    store.submit(request)
    store.run_pending()
    error = request.reply.exception(timeout=0)
    if error is None:
        return ""
    assert isinstance(error, CarouselError)
    assert error.reason == "QUOTA_EXCEEDED"
    assert error.metadata["tenant"] == "a"
    assert error.retry_after_s
    return error.metadata["quota"]


def opening(session_id: str, tenant: str = "a", snapshot: bytes = b"") -> Acquire:
    return Acquire(SessionKey(tenant, session_id), 0, NEW, First(1 if snapshot else 0, snapshot))


def test_sessions_beyond_the_limit_are_not_opened_and_others_are() -> None:
    store = thread(Clock(), tenant_stored_sessions=2)
    assert [ask(store, opening(name)) for name in ("s1", "s2")] == ["", ""]
    assert ask(store, opening("s3")) == Quota.STORED_SESSIONS
    assert ask(store, opening("s1", tenant="b")) == ""


def test_an_open_session_is_found_and_activated_at_the_limit() -> None:
    store = thread(Clock(), tenant_stored_sessions=1)
    assert ask(store, opening("s1")) == ""
    assert ask(store, opening("s1")) == ""
    assert ask(store, Acquire(SessionKey("a", "s1"), 0, None)) == ""


def test_a_session_that_is_closed_makes_room() -> None:
    clock = Clock()
    store = thread(clock, tenant_stored_sessions=1)
    assert ask(store, opening("s1")) == ""
    assert ask(store, opening("s2")) == Quota.STORED_SESSIONS
    assert ask(store, Remove(SessionKey("a", "s1"), 1, "SESSION_CLOSED")) == ""
    assert ask(store, opening("s2")) == ""


def test_bytes_of_copies_are_limited() -> None:
    store = thread(Clock(), tenant_store_bytes=100)
    assert ask(store, opening("s1", snapshot=bytes(60))) == ""
    assert ask(store, opening("s2", snapshot=bytes(41))) == Quota.STORE_BYTES
    assert ask(store, opening("s2", snapshot=bytes(40))) == ""
    assert ask(store, opening("s3", tenant="b", snapshot=bytes(60))) == ""


def test_what_another_replica_has_opened_counts_after_a_while() -> None:
    clock, ours = Clock(), MemoryStore()
    store = StoreThread(ours, clock=clock, limits=TenantLimits(tenant_stored_sessions=3))
    assert ask(store, opening("s1")) == ""
    theirs = MemoryStore(ours.medium, owner="another")
    for name in ("t1", "t2"):
        theirs.acquire(SessionKey("a", name), epoch_floor=0, new=NEW)
    clock.now += 10
    assert ask(store, opening("s2")) == Quota.STORED_SESSIONS


class Dear(MemoryStore):
    """Cannot tell bytes, and takes a second to tell the rest."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock, self.calls = clock, 0

    def usage(self, tenant: str) -> StoreStatistics:
        self.calls += 1
        self._clock.now += 1
        return StoreStatistics(super().usage(tenant).sessions, -1)


def test_a_tenant_at_its_limit_does_not_keep_the_store_counting() -> None:
    clock = Clock()
    dear = Dear(clock)
    store = StoreThread(dear, clock=clock, limits=TenantLimits(tenant_stored_sessions=1))
    assert ask(store, opening("s1")) == ""
    for _ in range(50):
        clock.now += 0.5
        assert ask(store, opening("s2")) == Quota.STORED_SESSIONS
    assert dear.calls == 1
    clock.now += 100
    assert ask(store, opening("s2")) == Quota.STORED_SESSIONS
    assert dear.calls == 2


def test_where_bytes_are_unknown_each_session_counts_as_the_largest_one_seen() -> None:
    clock = Clock()
    store = StoreThread(Dear(clock), clock=clock, limits=TenantLimits(tenant_store_bytes=100))
    assert ask(store, opening("s1", snapshot=bytes(40))) == ""
    clock.now += 1000
    assert ask(store, opening("s2", snapshot=bytes(20))) == ""
    clock.now += 1000
    assert ask(store, opening("s3", snapshot=bytes(30))) == Quota.STORE_BYTES
