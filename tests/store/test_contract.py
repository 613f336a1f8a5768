"""What core/store.py promises of every store, clause by clause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import (
    HEAD_BYTES,
    Acquire,
    First,
    Holding,
    Outcome,
    Record,
    SessionKey,
    Store,
    Verdict,
)
from carousel_server.core.types import Durability

from .media import KEY, NEW, Medium, commit

DAY_S = 86_400.0


def open_session(store: Store, session_id: str = "s1", tenant: str = "tenant") -> SessionKey:
    key = SessionKey(tenant, session_id)
    assert store.acquire(key, epoch_floor=0, new=NEW).created
    return key


def reason_of(error: pytest.ExceptionInfo[CarouselError]) -> str:
    return error.value.reason


# -- acquire


def test_a_session_opens_with_epoch_1_and_nothing_in_it(store: Store, medium: Medium) -> None:
    record = store.acquire(KEY, epoch_floor=0, new=NEW)
    assert (record.key, record.session) == (KEY, NEW)
    assert (record.epoch, record.seq, record.snapshot) == (1, 0, b"")
    assert record.held
    assert record.created
    assert record.last_used_unix_s == pytest.approx(medium.now(), abs=60)


def test_a_session_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(CarouselError) as error:
        store.acquire(KEY, epoch_floor=0, new=None)
    assert reason_of(error) == "SESSION_NOT_FOUND"


def test_each_activation_takes_a_new_epoch_and_brings_what_was_committed(store: Store) -> None:
    """R3, also for the replica that holds the session."""
    open_session(store)
    store.commit([commit(7, snapshot=b"\0\xff bytes")], fsync=False)
    record = store.acquire(KEY, epoch_floor=0, new=None)
    assert (record.epoch, record.seq, record.snapshot) == (2, 7, b"\0\xff bytes")
    assert not record.created
    assert store.acquire(KEY, epoch_floor=0, new=None).epoch == 3


def test_a_copy_opens_with_its_snapshot_in_the_same_stroke(store: Store) -> None:
    record = store.acquire(KEY, epoch_floor=0, new=NEW, first=First(7, b"copied"))
    assert (record.created, record.epoch, record.seq, record.snapshot) == (True, 1, 7, b"copied")
    assert store.read(KEY).seq == 7
    again = store.acquire(KEY, epoch_floor=0, new=NEW, first=First(9, b"another"))
    assert (again.created, again.seq, again.snapshot) == (False, 7, b"copied")
    assert store.commit([commit(epoch=2, seq=6)], fsync=False)[0].verdict is Verdict.STALE


def test_what_a_session_was_opened_with_is_never_changed(store: Store) -> None:
    open_session(store)
    other = replace(NEW, model="other", seed=1, idle_ttl_s=5.0)
    record = store.acquire(KEY, epoch_floor=0, new=other)
    assert record.session == NEW
    assert not record.created


def test_sessions_are_acquired_together_each_on_its_own(store: Store) -> None:
    a, b = open_session(store, "a"), open_session(store, "b")
    store.commit([commit(7, key=b, snapshot=b"seven")], fsync=False)
    none, new = SessionKey("tenant", "none"), SessionKey("tenant", "new")
    wanted = [Acquire(a), Acquire(none), Acquire(b, 4), Acquire(a, -1), Acquire(new, 0, NEW)]
    got = store.acquire_all([*wanted, Acquire(a)])
    first, missing, second, wrong, opened, again = got
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert isinstance(opened, Record)
    assert isinstance(again, Record)
    assert [(one.key, one.epoch) for one in (first, second, opened, again)] == [
        (a, 2), (b, 5), (new, 1), (a, 3),
    ]  # fmt: skip
    assert (second.seq, second.snapshot, opened.created) == (7, b"seven", True)
    assert isinstance(missing, CarouselError)
    assert isinstance(wrong, CarouselError)
    assert (missing.reason, wrong.reason) == ("SESSION_NOT_FOUND", "FIELD_INVALID")
    assert store.acquire_all([]) == []


@pytest.mark.parametrize(
    ("floor", "epoch"), [(0, 2), (1, 2), (2, 3), (40, 41), (1 << 52, (1 << 52) + 1)]
)
def test_the_epoch_is_above_the_clients_floor(store: Store, floor: int, epoch: int) -> None:
    """R13."""
    open_session(store)
    assert store.acquire(KEY, epoch_floor=floor, new=None).epoch == epoch


def test_a_new_session_is_above_the_floor_too(store: Store) -> None:
    assert store.acquire(KEY, epoch_floor=9, new=NEW).epoch == 10


@pytest.mark.parametrize("floor", [-1, (1 << 52) + 1, (1 << 64) - 1])
def test_a_floor_that_none_can_have_seen_is_refused(store: Store, floor: int) -> None:
    with pytest.raises(CarouselError) as error:
        store.acquire(KEY, epoch_floor=floor, new=NEW)
    assert reason_of(error) == "FIELD_INVALID"
    assert store.statistics().sessions == 0


def test_tenants_do_not_share_names(store: Store) -> None:
    open_session(store, "x:y", tenant="a")
    open_session(store, "y", tenant="a:x")
    store.commit([commit(3, key=SessionKey("a", "x:y"))], fsync=False)
    assert store.read(SessionKey("a:x", "y")).seq == 0


# -- commit


def test_a_commit_replaces_the_snapshot(store: Store, medium: Medium) -> None:
    open_session(store)
    used = medium.now() - 7.25
    for seq in (1, 2, 50):
        outcomes = store.commit([commit(seq, used=used)], fsync=False)
        assert outcomes == [Outcome(Verdict.DONE, 1, seq)]
    record = store.acquire(KEY, epoch_floor=0, new=None)
    assert (record.seq, record.snapshot) == (50, b"snapshot 50")


def test_a_commit_tells_when_the_session_was_used(store: Store, medium: Medium) -> None:
    open_session(store)
    used = medium.now() - 7.25
    store.commit([commit(1, used=used)], fsync=False)
    assert store.read(KEY).last_used_unix_s == used


def test_a_commit_of_an_older_epoch_is_fenced(store: Store) -> None:
    """R4."""
    open_session(store)
    store.commit([commit(5)], fsync=False)
    store.acquire(KEY, epoch_floor=0, new=None)
    assert store.commit([commit(6)], fsync=False) == [Outcome(Verdict.FENCED, 2, 5)]
    assert store.read(KEY).seq == 5


def test_a_commit_of_an_epoch_that_never_was_is_fenced(store: Store) -> None:
    open_session(store)
    assert store.commit([commit(1, epoch=2)], fsync=False) == [Outcome(Verdict.FENCED, 1, 0)]


def test_a_commit_that_falls_back_is_stale_and_changes_nothing(store: Store) -> None:
    """R4."""
    open_session(store)
    used = store.read(KEY).last_used_unix_s
    store.commit([commit(5, snapshot=b"first", used=used)], fsync=False)
    again = commit(4, snapshot=b"second", used=used + 1)
    assert store.commit([again], fsync=False) == [Outcome(Verdict.STALE, 1, 5)]
    record = store.acquire(KEY, epoch_floor=0, new=None)
    assert record.snapshot == b"first"


def test_a_commit_of_the_same_step_takes_the_place_of_the_last(store: Store) -> None:
    """The state is the same; who has bound the session, and what was acknowledged, is newer."""
    open_session(store)
    store.commit([commit(5, snapshot=b"first")], fsync=False)
    assert store.commit([commit(5, snapshot=b"second")], fsync=False) == [
        Outcome(Verdict.DONE, 1, 5)
    ]
    assert store.acquire(KEY, epoch_floor=0, new=None).snapshot == b"second"


def test_a_commit_to_nothing_is_fenced(store: Store) -> None:
    assert store.commit([commit(1)], fsync=False) == [Outcome(Verdict.FENCED, 0, 0)]


def test_outcomes_come_in_the_order_of_the_commits(store: Store) -> None:
    keys = [open_session(store, f"s{number}") for number in range(100)]
    store.acquire(keys[50], epoch_floor=0, new=None)
    outcomes = store.commit([commit(n + 1, key=key) for n, key in enumerate(keys)], fsync=False)
    expected = [Outcome(Verdict.DONE, 1, n + 1) for n in range(100)]
    expected[50] = Outcome(Verdict.FENCED, 2, 0)
    assert outcomes == expected


def test_one_session_may_stand_twice_in_a_group(store: Store) -> None:
    open_session(store)
    verdicts = [o.verdict for o in store.commit([commit(2), commit(3), commit(2)], fsync=False)]
    assert verdicts == [Verdict.DONE, Verdict.DONE, Verdict.STALE]


def test_no_commits_are_no_trouble(store: Store) -> None:
    assert store.commit([], fsync=False) == []
    store.release([])


def test_a_commit_may_be_large(store: Store) -> None:
    open_session(store)
    large = bytes(range(256)) * 16_384
    store.commit([commit(1, snapshot=large)], fsync=Durability.SYNC_FSYNC in store.levels)
    assert store.acquire(KEY, epoch_floor=0, new=None).snapshot == large


# -- release, remove


def test_a_released_session_is_free_and_keeps_its_epoch(store: Store, medium: Medium) -> None:
    open_session(store)
    used = medium.now() - 50
    store.release([Holding(KEY, 1, used)])
    record = store.read(KEY)
    assert (record.held, record.epoch, record.last_used_unix_s) == (False, 1, used)


def test_a_release_of_another_epoch_is_ignored(store: Store) -> None:
    open_session(store)
    before = store.read(KEY)
    store.release([Holding(KEY, 2, 0.0), Holding(SessionKey("tenant", "none"), 1, 0.0)])
    assert store.read(KEY) == before


def activated(store: Store) -> Record:
    return store.acquire(KEY, epoch_floor=0, new=None)


def test_a_session_is_whole_if_its_holder_has_released_it_so(store: Store, medium: Medium) -> None:
    open_session(store)
    store.commit([commit(1)], fsync=False)
    store.release([Holding(KEY, 1, medium.now(), whole=True)])
    record = activated(store)
    assert (record.epoch, record.whole, record.seq) == (2, True, 1)


def test_a_new_session_is_whole(store: Store) -> None:
    assert store.acquire(KEY, epoch_floor=0, new=NEW).whole


def test_a_session_whose_holder_knows_that_steps_are_missing_is_not_whole(
    store: Store, medium: Medium
) -> None:
    open_session(store)
    store.release([Holding(KEY, 1, medium.now(), whole=True)])
    activated(store)
    store.release([Holding(KEY, 2, medium.now())])
    assert not activated(store).whole


def test_the_mark_of_an_earlier_holder_counts_once(store: Store, medium: Medium) -> None:
    """The next holder may have answered steps and have died before they were stored."""
    open_session(store)
    store.release([Holding(KEY, 1, medium.now(), whole=True)])
    assert activated(store).whole
    for _ in range(3):
        store.commit([commit(1, epoch=2)], fsync=False)
        assert not activated(store).whole


def test_a_release_of_another_epoch_makes_nothing_whole(store: Store, medium: Medium) -> None:
    open_session(store)
    activated(store)
    store.release([Holding(KEY, 1, medium.now(), whole=True)])
    assert not activated(store).whole


def test_a_session_of_a_killed_server_is_not_whole(medium: Medium) -> None:
    store = medium.open()
    open_session(store)
    store.commit([commit(1)], fsync=False)
    medium.kill(store)
    again = medium.open()
    assert not activated(again).whole
    again.release([Holding(KEY, 2, medium.now(), whole=True)])
    medium.kill(again)
    assert activated(medium.open()).whole


def test_a_session_that_is_opened_again_is_whole(store: Store, medium: Medium) -> None:
    open_session(store)
    assert store.remove(KEY, 1, "SESSION_CLOSED") is Verdict.DONE
    assert store.acquire(KEY, epoch_floor=0, new=NEW).whole


def test_a_removed_session_is_remembered(store: Store) -> None:
    open_session(store)
    assert store.remove(KEY, 1, "SESSION_CLOSED") is Verdict.DONE
    for ask in (lambda: store.read(KEY), lambda: store.acquire(KEY, epoch_floor=0, new=None)):
        with pytest.raises(CarouselError) as error:
            ask()
        assert reason_of(error) == "SESSION_CLOSED"
    assert store.list("tenant", "", 10) == []
    assert store.statistics().sessions == 0


def test_a_removal_of_another_epoch_is_fenced(store: Store) -> None:
    open_session(store)
    store.acquire(KEY, epoch_floor=0, new=None)
    assert store.remove(KEY, 1, "SESSION_CLOSED") is Verdict.FENCED
    assert store.read(KEY).epoch == 2


def test_a_removal_may_be_repeated(store: Store) -> None:
    open_session(store)
    assert store.remove(KEY, 1, "SESSION_CLOSED") is Verdict.DONE
    assert store.remove(KEY, 1, "SESSION_CLOSED") is Verdict.DONE
    assert store.remove(KEY, 2, "SESSION_CLOSED") is Verdict.FENCED
    assert store.remove(SessionKey("tenant", "none"), 1, "SESSION_CLOSED") is Verdict.FENCED


def test_an_ended_session_opens_anew_above_its_former_epochs(store: Store) -> None:
    """So a late commit from its former life is fenced, though it counts from 1 again."""
    open_session(store)
    store.acquire(KEY, epoch_floor=6, new=None)
    store.commit([commit(500, epoch=7)], fsync=False)
    store.remove(KEY, 7, "SESSION_CLOSED")
    assert store.commit([commit(501, epoch=7)], fsync=False) == [Outcome(Verdict.FENCED, 0, 0)]
    record = store.acquire(KEY, epoch_floor=0, new=NEW)
    assert (record.created, record.epoch, record.seq, record.snapshot) == (True, 8, 0, b"")
    assert store.commit([commit(502, epoch=7)], fsync=False) == [Outcome(Verdict.FENCED, 8, 0)]
    assert store.remove(KEY, 7, "SESSION_CLOSED") is Verdict.FENCED
    assert store.read(KEY).seq == 0


# -- read, list


def test_reading_takes_no_epoch_and_no_snapshot(store: Store) -> None:
    open_session(store)
    store.commit([commit(4)], fsync=False)
    record = store.read(KEY)
    assert (record.epoch, record.seq, record.snapshot) == (1, 4, b"")
    assert (record.session, record.held, record.created) == (NEW, True, False)
    assert store.read(KEY) == record


def test_facts_come_with_the_beginning_of_the_snapshot(store: Store) -> None:
    open_session(store)
    assert store.read(KEY).head == b""
    snapshot = bytes(range(256)) * 20
    store.commit([commit(1, snapshot=snapshot)], fsync=False)
    assert store.read(KEY).head == snapshot[:HEAD_BYTES]
    assert [record.head for record in store.list(KEY.tenant, "", 9)] == [snapshot[:HEAD_BYTES]]
    store.commit([commit(2, snapshot=b"short")], fsync=False)
    assert store.read(KEY).head == b"short"
    assert store.acquire(KEY, epoch_floor=0, new=None).snapshot == b"short"


def test_reading_what_is_not_there(store: Store) -> None:
    with pytest.raises(CarouselError) as error:
        store.read(KEY)
    assert reason_of(error) == "SESSION_NOT_FOUND"


def test_a_list_is_in_the_order_of_ids_and_paged(store: Store) -> None:
    ids = ["B", "a", "a.1", "a-1", "b", "b_", "z:9"]
    for session_id in reversed(ids):
        open_session(store, session_id)
    open_session(store, "c", tenant="other")
    found: list[str] = []
    while page := store.list("tenant", found[-1] if found else "", 2):
        assert len(page) <= 2
        assert all(record.key.tenant == "tenant" for record in page)
        found += [record.key.id for record in page]
    assert found == sorted(ids)


def test_a_list_tells_the_facts(store: Store) -> None:
    open_session(store)
    store.commit([commit(4)], fsync=False)
    assert store.list("tenant", "", 10) == [store.read(KEY)]
    assert store.list("nobody", "", 10) == []
    assert store.list("tenant", "", 0) == []


def test_a_list_may_ask_for_one_model(store: Store) -> None:
    """Pages are full though the model's sessions are far between."""
    for number in range(600):
        model = "rare" if number % 100 == 99 else "m"
        new = replace(NEW, model=model)
        store.acquire(SessionKey("tenant", f"{number:03}"), epoch_floor=0, new=new)
    rare = [record.key.id for record in store.list("tenant", "", 4, model="rare")]
    assert rare == ["099", "199", "299", "399"]
    rest = [record.key.id for record in store.list("tenant", rare[-1], 4, model="rare")]
    assert rest == ["499", "599"]
    assert len(store.list("tenant", "", 1000)) == 600


# -- expiry


def test_an_idle_session_expires_though_nobody_swept(store: Store, medium: Medium) -> None:
    open_session(store)
    store.release([Holding(KEY, 1, medium.now() - 101)])
    with pytest.raises(CarouselError) as error:
        store.read(KEY)
    assert reason_of(error) == "SESSION_EXPIRED"
    assert store.list("tenant", "", 10) == []
    with pytest.raises(CarouselError) as error:
        store.acquire(KEY, epoch_floor=0, new=None)
    assert reason_of(error) == "SESSION_EXPIRED"
    record = store.acquire(KEY, epoch_floor=0, new=NEW)
    assert (record.created, record.epoch) == (True, 2)
    assert store.statistics().sessions == 1


def test_a_session_that_is_held_does_not_expire(store: Store, medium: Medium) -> None:
    open_session(store)
    store.commit([commit(1, used=medium.now() - 1000)], fsync=False)
    assert store.sweep(medium.now() + 1000, 10) == 0
    assert store.read(KEY).held
    assert store.acquire(KEY, epoch_floor=0, new=None).epoch == 2


def test_a_sweep_ends_what_is_idle_for_too_long(store: Store, medium: Medium) -> None:
    now = medium.now()
    for age in (99, 50, 0):
        key = open_session(store, f"age{age}")
        store.release([Holding(key, 1, now - age)])
    assert store.sweep(now, 10) == 0
    assert store.sweep(now + 60, 10) == 2
    assert [record.key.id for record in store.list("tenant", "", 10)] == ["age0"]
    with pytest.raises(CarouselError) as error:
        store.read(SessionKey("tenant", "age99"))
    assert reason_of(error) == "SESSION_EXPIRED"


def test_a_sweep_goes_no_further_than_it_may(store: Store, medium: Medium) -> None:
    now = medium.now()
    held = [open_session(store, f"held{number}") for number in range(5)]
    store.commit([commit(1, key=key, used=now - 5000) for key in held], fsync=False)
    store.release([Holding(open_session(store, f"s{n}"), 1, now - 1000) for n in range(7)])
    ended = [store.sweep(now + 10, 3) for _ in range(4)]
    assert ended == [3, 3, 1, 0]
    assert store.statistics().sessions == 5


def test_a_sweep_looks_at_the_newest_use(store: Store, medium: Medium) -> None:
    open_session(store)
    store.commit([commit(1, used=medium.now() + 500)], fsync=False)
    store.release([Holding(KEY, 1, medium.now() + 500)])
    assert store.sweep(medium.now() + 400, 10) == 0
    assert store.sweep(medium.now() + 700, 10) == 1


def test_the_stores_time_is_that_of_its_medium(store: Store, medium: Medium) -> None:
    before = store.now_unix_s()
    assert before == pytest.approx(medium.now(), abs=60)
    record = store.acquire(KEY, epoch_floor=0, new=NEW)
    assert before - 1 <= record.last_used_unix_s <= store.now_unix_s() + 1


def test_what_was_used_just_now_does_not_expire(store: Store) -> None:
    open_session(store)
    store.release([Holding(KEY, 1, store.now_unix_s())])
    assert store.sweep(store.now_unix_s(), 10) == 0
    assert not store.read(KEY).held
    assert store.sweep(store.now_unix_s() + NEW.idle_ttl_s + 1, 10) == 1


# -- levels, statistics, close


def test_the_names_and_levels(store: Store) -> None:
    assert store.name in ("memory", "sqlite", "redis")
    assert {Durability.ASYNC, Durability.SYNC} <= store.levels
    assert (Durability.SYNC_FSYNC in store.levels) == (store.name == "sqlite")
    assert store.lease_ttl_s > 0


def test_statistics_count(store: Store) -> None:
    for number in range(5):
        open_session(store, f"s{number}")
    store.commit([commit(1, key=SessionKey("tenant", "s0"), snapshot=bytes(10_000))], fsync=False)
    assert store.statistics().sessions == 5
    assert store.statistics().bytes >= 10_000


def test_sessions_outlive_the_store(medium: Medium) -> None:
    store = medium.open()
    open_session(store)
    store.commit([commit(3)], fsync=False)
    store.close()
    store.close()
    again = medium.open()
    assert not again.read(KEY).held
    record = again.acquire(KEY, epoch_floor=0, new=None)
    assert (record.epoch, record.seq, record.snapshot) == (2, 3, b"snapshot 3")
    assert again.statistics().sessions == 1


def test_a_replica_that_died_leaves_its_sessions_to_its_next_life(medium: Medium) -> None:
    store = medium.open()
    open_session(store)
    store.commit([commit(3, used=medium.now() - 50)], fsync=False)
    medium.kill(store)
    again = medium.open()
    record = again.read(KEY)
    assert not record.held, "that life is over"
    assert again.sweep(medium.now() + 110, 10) == 1


def test_the_next_life_takes_over_at_once(medium: Medium) -> None:
    store = medium.open()
    open_session(store)
    medium.kill(store)
    assert medium.open().acquire(KEY, epoch_floor=0, new=None).epoch == 2
