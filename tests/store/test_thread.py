"""The store's thread: what it passes on, order, groups, outages, sweeps, and its end."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import (
    Acquire,
    CommitGroup,
    Holding,
    ListStored,
    Outcome,
    Read,
    Release,
    Remove,
    SessionKey,
    Verdict,
)
from carousel_server.core.types import Durability
from carousel_server.store import StoreThread
from carousel_server.store.faults import unavailable
from carousel_server.store.grouping import Requests

from .media import KEY, NEW, commit
from .recorded import Clock, Recorded, Told, acquired, reason, submit

# -- what it passes on


def test_every_request_is_answered(thread: StoreThread, recorded: Recorded) -> None:
    (key,) = acquired(thread, "s1")
    replies = submit(
        thread,
        CommitGroup([commit(3)], fsync=False),
        Read(key),
        ListStored("tenant"),
        ListStored("tenant", model="none"),
        Release([Holding(key, 1, 1000.0)]),
        Remove(key, 1, "SESSION_CLOSED"),
        Read(key),
        Acquire(SessionKey("tenant", "none")),
    )
    assert thread.run_pending() == 8
    done, read, listed, none, released, removed, gone, missing = replies
    assert done.result(0) == [Outcome(Verdict.DONE, 1, 3)]
    assert read.result(0).seq == 3
    assert [record.key for record in listed.result(0)] == [key]
    assert none.result(0) == []
    assert released.result(0) is None
    assert removed.result(0) is Verdict.DONE
    assert reason(gone) == "SESSION_CLOSED"
    assert reason(missing) == "SESSION_NOT_FOUND"
    assert thread.run_pending() == 0


def test_acquire_passes_the_floor(thread: StoreThread) -> None:
    (reply,) = submit(thread, Acquire(KEY, 7, NEW))
    thread.run_pending()
    assert reply.result(0).epoch == 8


def test_the_levels_are_the_stores(thread: StoreThread) -> None:
    assert thread.levels == {Durability.ASYNC, Durability.SYNC}


# -- groups and order


def test_groups_that_wait_together_are_one_transaction(
    thread: StoreThread, recorded: Recorded, told: Told
) -> None:
    a, b, c = acquired(thread, "a", "b", "c")
    recorded.calls.clear()
    replies = submit(
        thread,
        CommitGroup([commit(1, key=a, snapshot=b"12345"), commit(1, key=b, epoch=9)], fsync=False),
        CommitGroup([], fsync=False),
        CommitGroup([commit(2, key=c, snapshot=b"123")], fsync=True),
    )
    assert thread.run_pending() == 3
    assert recorded.calls == ["commit fsync 3"]
    assert [reply.result(0) for reply in replies] == [
        [Outcome(Verdict.DONE, 1, 1), Outcome(Verdict.FENCED, 1, 0)],
        [],
        [Outcome(Verdict.DONE, 1, 2)],
    ]
    ((records, _, verdicts),) = told.groups
    assert (records, verdicts) == (3, {Verdict.DONE: 2, Verdict.FENCED: 1})


def test_commits_overtake_the_others_and_take_turns_with_them(
    thread: StoreThread, recorded: Recorded
) -> None:
    (key,) = acquired(thread, "s1")
    recorded.calls.clear()
    first, _, _, second, taken = submit(
        thread,
        CommitGroup([commit(1, key=key)], fsync=False),
        Read(key),
        Read(key),
        CommitGroup([commit(2, key=key)], fsync=False),
        Acquire(key),
    )
    third = CommitGroup([commit(3, key=key)], fsync=False)
    first.add_done_callback(lambda _: thread.submit(third))
    thread.run_pending()
    assert recorded.calls == ["commit 2", "read", "commit 1", "read", "acquire"]
    assert first.result(0)[0].verdict is second.result(0)[0].verdict is Verdict.DONE
    assert third.reply.result(0)[0] == Outcome(Verdict.DONE, 1, 3)
    assert taken.result(0).seq == 3


def test_a_commit_of_an_epoch_that_is_over_is_fenced(
    thread: StoreThread, recorded: Recorded
) -> None:
    (key,) = acquired(thread, "s1")
    late = CommitGroup([commit(1, key=key)], fsync=False)
    (taken,) = submit(thread, Acquire(key))
    taken.add_done_callback(lambda _: thread.submit(late))
    thread.run_pending()
    assert late.reply.result(0)[0].verdict is Verdict.FENCED


def test_sessions_are_acquired_together_where_the_store_can_do_that(
    thread: StoreThread, recorded: Recorded
) -> None:
    acquired(thread, "a", "b")
    taken: list[int] = []
    acquire_all = recorded.acquire_all
    recorded.acquire_all = lambda wanted: (taken.append(len(wanted)), acquire_all(wanted))[1]  # type: ignore[method-assign]
    thread._queue = Requests(most_acquires=3)
    keys = [SessionKey("tenant", name) for name in ("a", "none", "b", "a")]
    a, none, b, again, opened = submit(thread, *map(Acquire, keys), Acquire(KEY, 0, NEW))
    assert thread.run_pending() == 5
    assert taken == [3, 1, 1], "an opening is checked against the quotas, so it comes alone"
    assert (a.result(0).epoch, b.result(0).epoch, again.result(0).epoch) == (2, 2, 3)
    assert reason(none) == "SESSION_NOT_FOUND"
    assert opened.result(0).created


def test_a_fault_of_the_store_fails_all_that_were_acquired_together(
    thread: StoreThread, recorded: Recorded
) -> None:
    acquired(thread, "a", "b")
    thread._queue = Requests(most_acquires=8)
    recorded.fault = unavailable()
    replies = submit(thread, *(Acquire(SessionKey("tenant", name)) for name in "ab"))
    thread.run_pending()
    assert [reason(one) for one in replies] == ["STORE_UNAVAILABLE"] * 2
    assert thread.fault


def test_sessions_that_leave_together_are_released_in_one_call(
    thread: StoreThread, recorded: Recorded
) -> None:
    a, b, c = acquired(thread, "a", "b", "c")
    recorded.calls.clear()
    both = Release([Holding(a, 1, 1e3), Holding(b, 1, 1e3)])
    replies = submit(thread, both, Release([Holding(c, 1, 1e3)]), Read(c))
    thread.run_pending()
    assert recorded.calls == ["release", "read"]
    assert [one.result(0) for one in replies[:2]] == [None, None]
    assert not replies[2].result(0).held


def test_a_transaction_has_an_end(thread: StoreThread, recorded: Recorded) -> None:
    (key,) = acquired(thread, "s1")
    recorded.calls.clear()
    group = [commit(0, key=key, snapshot=b"x")] * 1500
    submit(thread, *(CommitGroup(group, fsync=False) for _ in range(4)))
    thread.run_pending()
    assert recorded.calls == ["commit 3000", "commit 3000"]


def test_a_request_that_was_given_up_is_not_run(thread: StoreThread, recorded: Recorded) -> None:
    read = Read(KEY)
    group = CommitGroup([commit(1)], fsync=True)
    for request in (read, group, CommitGroup([commit(1)], fsync=False)):
        thread.submit(request)
    assert read.reply.cancel()
    assert group.reply.cancel()
    thread.run_pending()
    assert recorded.calls == ["commit 1"]


def test_a_callback_may_ask_again(thread: StoreThread) -> None:
    again = Read(KEY)
    first = Acquire(KEY, 0, NEW)
    first.reply.add_done_callback(lambda _: thread.submit(again))
    thread.submit(first)
    assert thread.run_pending() == 2
    assert again.reply.result(0).epoch == 1


def test_the_queue_is_bounded_for_clients_only(thread: StoreThread) -> None:
    submit(thread, *(Read(KEY) for _ in range(100)))
    for request in (Read(KEY), Acquire(KEY), ListStored("tenant")):
        with pytest.raises(CarouselError) as error:
            thread.submit(request)
        assert error.value.reason == "QUEUE_FULL"
        assert error.value.retry_after_s
    submit(thread, CommitGroup([], fsync=False), Release([]), Remove(KEY, 1, "SESSION_CLOSED"))
    assert thread.run_pending() == 103
    submit(thread, Read(KEY))


# -- outages


def test_an_outage_fails_what_it_hits_and_is_told_once(
    thread: StoreThread,
    recorded: Recorded,
    told: Told,
    caplog: pytest.LogCaptureFixture,
    clock: Clock,
) -> None:
    (key,) = acquired(thread, "s1")
    recorded.fault = unavailable("the disk is on fire")
    group = CommitGroup([commit(1)], fsync=False)
    other = CommitGroup([commit(2)], fsync=False)
    replies = submit(thread, group, other, Read(key), Release([Holding(key, 1, 0.0)]))
    thread.run_pending()
    for _ in range(20):
        clock.now_s += 0.3
        replies += submit(thread, Read(key))
        thread.run_pending()
    assert {reason(reply) for reply in replies} == {"STORE_UNAVAILABLE"}
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "the disk is on fire" in caplog.text
    assert ("commit", False) in told.requests
    recorded.fault = None
    (reply,) = submit(thread, CommitGroup([commit(1)], fsync=False))
    thread.run_pending()
    assert reply.result(0)[0].verdict is Verdict.DONE
    assert [r.levelname for r in caplog.records] == ["ERROR", "WARNING"]
    assert "answers again" in caplog.text


def test_a_fault_always_says_when_to_try_again(thread: StoreThread, recorded: Recorded) -> None:
    recorded.fault = CarouselError("STORE_UNAVAILABLE", "out")
    (reply,) = submit(thread, Read(KEY))
    thread.run_pending()
    error = reply.exception(0)
    assert isinstance(error, CarouselError)
    assert error.retry_after_s


def test_a_refusal_is_no_outage(
    thread: StoreThread, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    submit(thread, Read(KEY))
    thread.run_pending()
    assert told.requests[-1] == ("read", True)
    assert not caplog.records


def test_a_defect_is_logged_and_the_thread_lives_on(
    thread: StoreThread, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.fault = KeyError("a defect")
    replies = submit(thread, CommitGroup([commit(1)], fsync=False), Read(KEY))
    thread.run_pending()
    assert [reason(reply) for reply in replies] == ["INTERNAL", "INTERNAL"]
    assert "a defect" in caplog.text
    recorded.fault = None
    acquired(thread, "s1")


# -- sweeps


def test_it_sweeps_and_measures_every_five_seconds(
    thread: StoreThread, recorded: Recorded, clock: Clock, told: Told
) -> None:
    (key,) = acquired(thread, "s1")
    submit(thread, Release([Holding(key, 1, clock() - 99)]))
    thread.run_pending()
    clock.now_s += 4.9
    thread.run_pending()
    assert "sweep" not in recorded.calls
    clock.now_s += 0.2
    thread.run_pending()
    assert recorded.calls.count("sweep") == 1
    assert told.levels == [(0, 0)]
    (reply,) = submit(thread, Read(key))
    thread.run_pending()
    assert reason(reply) == "SESSION_EXPIRED"


def test_a_large_sweep_lets_requests_pass(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    keys = acquired(thread, *(f"s{number}" for number in range(90)))
    more = acquired(thread, *(f"t{number}" for number in range(90)))
    rest = acquired(thread, *(f"u{number}" for number in range(90)))
    everything = [Holding(key, 1, clock() - 99) for key in (*keys, *more, *rest)]
    submit(thread, Release(everything))
    thread.run_pending()
    recorded.calls.clear()
    clock.now_s += 5.1
    submit(thread, Read(KEY), Read(KEY))
    thread.run_pending()
    asked = [what for what in recorded.calls if what != "renew"]
    assert sorted(asked) == ["read", "read", "sweep", "sweep"]
    assert asked[-1] == "read", "the first request does not wait for the whole sweep"
    assert recorded.statistics().sessions == 0


# -- the thread itself


@pytest.fixture
def running(recorded: Recorded) -> Iterator[StoreThread]:
    recorded.lease_ttl_s = math.inf
    thread = StoreThread(recorded)
    thread.start()
    yield thread
    thread.stop()


def test_it_answers_other_threads(running: StoreThread) -> None:
    keys = [SessionKey("tenant", f"s{number}") for number in range(8)]
    ends: list[int] = []

    def client(key: SessionKey) -> None:
        request = Acquire(key, 0, NEW)
        running.submit(request)
        request.reply.result(30)
        for seq in range(1, 101):
            group = CommitGroup([commit(seq, key=key)], fsync=False)
            running.submit(group)
            assert group.reply.result(30) == [Outcome(Verdict.DONE, 1, seq)]
        ends.append(seq)

    threads = [threading.Thread(target=client, args=(key,)) for key in keys]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert ends == [100] * 8


def test_it_renews_without_being_asked() -> None:
    renewed = threading.Event()

    def note(call: str) -> None:
        if call == "renew":
            count.append(call)
            if len(count) == 3:
                renewed.set()

    count: list[str] = []
    recorded = Recorded(Clock(), lease_ttl_s=0.05)
    recorded.on_call = note
    thread = StoreThread(recorded)
    thread.start()
    assert renewed.wait(30)
    thread.stop()


def test_stop_runs_what_waits_and_closes_the_store(recorded: Recorded) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def block(call: str) -> None:
        if call == "acquire":
            entered.set()
            assert go_on.wait(30)

    recorded.on_call = block
    thread = StoreThread(recorded)
    thread.start()
    thread.submit(Acquire(KEY, 0, NEW))
    assert entered.wait(30)
    (reply,) = submit(thread, CommitGroup([commit(1)], fsync=False))
    stopping = threading.Thread(target=thread.stop)
    stopping.start()
    go_on.set()
    stopping.join()
    assert reply.result(0)[0].verdict is Verdict.DONE
    assert recorded.closed == 1
    thread.stop()
    assert recorded.closed == 1
    with pytest.raises(CarouselError, match="STORE_UNAVAILABLE"):
        thread.submit(Read(KEY))


def test_stop_does_not_wait_for_ever(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hang(call: str) -> None:
        entered.set()
        assert go_on.wait(30)

    recorded.on_call = hang
    thread = StoreThread(recorded)
    thread.start()
    assert entered.wait(30)
    replies = submit(thread, Read(KEY), CommitGroup([commit(1)], fsync=False))
    thread.stop(timeout_s=0.01)
    assert [reason(reply) for reply in replies] == ["STORE_UNAVAILABLE"] * 2
    assert "ending without it" in caplog.text
    go_on.set()
    thread.stop()
    assert recorded.closed == 1


@pytest.mark.parametrize("fault", [False, True])
def test_stop_without_a_thread(thread: StoreThread, recorded: Recorded, fault: bool) -> None:
    replies: Sequence[Future[Any]] = submit(thread, Acquire(KEY, 0, NEW))
    recorded.fault = unavailable() if fault else None
    thread.stop()
    thread.stop()
    assert (replies[0].exception(0) is None) != fault
    assert recorded.closed == 1


# -- a store that does not answer


def slow(recorded: Recorded, clock: Clock, seconds: float) -> None:
    """Each call takes so long from now on."""

    def wait(_: str) -> None:
        clock.now_s += seconds

    recorded.on_call = wait


def test_what_is_queued_behind_a_long_fault_fails_with_it(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    (key,) = acquired(thread, "s1")
    recorded.fault = unavailable("no answer")
    slow(recorded, clock, 2.5)
    replies = submit(thread, *(Read(key) for _ in range(50)))
    asked, began_s = len(recorded.calls), clock.now_s
    thread.run_pending()
    assert {reason(reply) for reply in replies} == {"STORE_UNAVAILABLE"}
    assert len(recorded.calls) - asked == 1, "each would have waited once more"
    assert clock.now_s - began_s == 2.5


def test_a_fault_that_comes_at_once_fails_nobody_else(
    thread: StoreThread, recorded: Recorded
) -> None:
    (key,) = acquired(thread, "s1")
    failing = submit(thread, Read(key))

    def once(_: str) -> None:
        recorded.fault = None if recorded.calls[-1:] != ["read"] or answered else unavailable()
        answered.append(True)

    answered: list[bool] = []
    recorded.on_call = once
    others = submit(thread, Read(key), Read(key))
    thread.run_pending()
    assert reason(failing[0]) == "STORE_UNAVAILABLE"
    assert all(reply.result(0).key == key for reply in others)


def test_what_was_given_back_behind_a_long_fault_is_given_back_later(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    one, other = acquired(thread, "s1", "s2")
    recorded.fault = unavailable("no answer")
    slow(recorded, clock, 2.5)
    submit(thread, Read(one), Release([Holding(other, 1, 1000.0)]))
    thread.run_pending()
    recorded.fault, recorded.on_call = None, lambda _: None
    clock.now_s += 1.0
    thread.run_pending()
    assert not recorded.read(other).held
    assert recorded.read(one).held


def test_the_thread_says_whether_the_store_answers(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    (key,) = acquired(thread, "s1")
    assert thread.fault == ""
    recorded.fault = unavailable("the store's disk is full")
    submit(thread, Read(key))
    thread.run_pending()
    assert thread.fault == "the store's disk is full"
    recorded.fault = None
    submit(thread, Read(key))
    thread.run_pending()
    assert thread.fault == ""


def test_a_request_that_never_ends_is_a_fault_meanwhile(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    (key,) = acquired(thread, "s1")
    seen: list[str] = []

    def hang(_: str) -> None:
        clock.now_s += 4.0
        seen.append(thread.fault)
        clock.now_s += 4.0
        seen.append(thread.fault)

    recorded.on_call = hang
    submit(thread, Read(key))
    thread.run_pending()
    assert seen[:2] == ["", "the store does not answer"]
    assert thread.fault == ""
