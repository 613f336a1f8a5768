"""Hand-overs: a session leaves with all that has run, and its client is told after that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from carousel_protos.placement import placed
from carousel_server.core.moves import Handed, HandOver, Hold, MoveAway, SetOwners, Why
from carousel_server.core.ports import Activate, Bind, Close, Unbind
from carousel_server.core.store import Record, Release, SessionKey
from carousel_server.core.types import Durability, SessionRef

from .durable_rig import DurableRig
from .fakes import RecordingSink, RunningSum

KEY = SessionKey("t", "s")
HERE, THERE, YONDER = "here:1", "there:1", "yonder:1"


@pytest.fixture
def rig() -> DurableRig:
    return DurableRig()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


def bound(
    rig: DurableRig, sink: RecordingSink, hold: Hold, session_id: str = "s", **open_: Any
) -> SessionRef:
    """A session that has stepped once, bound so that its client is told as `hold` says."""
    ref = rig.open_durable(session_id, **open_)
    rig.attach(ref, sink, hold=hold)
    rig.send(sink, ref, 1, 1)
    rig.rest()
    return ref


def asked(rig: DurableRig, ref: SessionRef, *, take_over: bool = False) -> HandOver:
    command = HandOver(ref, THERE, take_over)
    rig.engine.submit(command)
    return command


def is_held(rig: DurableRig, session_id: str = "s") -> bool:
    return rig.store.store.read(SessionKey("t", session_id)).held


# -- what a session takes along


def test_a_session_that_no_one_uses_is_released_at_once(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    rig.engine.submit(Unbind(ref, sink))
    assert rig.until(asked(rig, ref).reply) is Handed.MOVED
    assert not is_held(rig)
    assert rig.metrics.moves == [Why.ASKED]
    assert sink.moves == []


def test_what_has_run_is_in_the_store_before_the_session_is_released(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    rig.send(sink, ref, 2, 2, 3)
    rig.tick()
    command = asked(rig, ref, take_over=True)
    rig.tick()
    assert is_held(rig)
    assert not command.reply.done()
    assert rig.until(command.reply) is Handed.MOVED
    again = DurableRig(medium=rig.medium, replica="there")
    assert again.attach(again.resume(), RecordingSink()).applied == 3
    assert sink.confirmed[-1] == (1, 3)


def acquired(rig: DurableRig, session_id: str = "s") -> Record:
    """What the next holder gets."""
    return rig.store.store.acquire(SessionKey("t", session_id), epoch_floor=0, new=None)


def test_a_session_that_is_handed_over_is_whole(rig: DurableRig, sink: RecordingSink) -> None:
    ref = bound(rig, sink, Hold.CALLS)
    rig.send(sink, ref, 2, 2, 3)
    rig.tick()
    assert rig.until(asked(rig, ref).reply) is Handed.MOVED
    record = acquired(rig)
    assert (record.seq, record.whole) == (3, True)


def test_what_a_crash_has_lost_stays_lost_over_a_hand_over(sink: RecordingSink) -> None:
    before = DurableRig()
    bound(before, sink, Hold.CALLS)
    after = DurableRig(medium=before.medium)  # as if the first had been killed
    ref = after.resume()
    assert not after.attach(ref, sink, hold=Hold.CALLS).whole
    after.send(sink, ref, 2, 2)
    after.rest()
    assert after.until(asked(after, ref).reply) is Handed.MOVED
    assert not acquired(after).whole


def test_a_reset_makes_a_session_whole(sink: RecordingSink) -> None:
    before = DurableRig()
    bound(before, sink, Hold.CALLS)
    after = DurableRig(medium=before.medium)
    ref = after.resume()
    after.attach(ref, sink, hold=Hold.CALLS)
    after.send(sink, ref, 2, 2, resets=b"\1")
    after.rest()
    assert after.until(asked(after, ref).reply) is Handed.MOVED
    assert acquired(after).whole


def test_steps_that_wait_are_dropped_and_not_run(rig: DurableRig, sink: RecordingSink) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    command = asked(rig, ref, take_over=True)
    rig.send(sink, ref, 2, 2)
    assert rig.until(command.reply) is Handed.MOVED
    assert [seq for seq, _ in sink.of(1)] == [1]
    assert rig.store.store.read(KEY).seq == 1


@pytest.mark.parametrize("durability", [Durability.ASYNC, Durability.SYNC])
def test_outputs_and_durable_come_before_moved(
    rig: DurableRig, sink: RecordingSink, durability: Durability
) -> None:
    ref = rig.open_durable(durability=durability)
    rig.attach(ref, sink, hold=Hold.FOLLOWER)
    rig.send(sink, ref, 1, 1, 2)
    rig.tick()
    command = asked(rig, ref, take_over=True)
    assert sink.moves == []
    assert rig.until(command.reply) is Handed.MOVED
    assert [seq for seq, _ in sink.of(1)] == [1, 2]
    assert sink.confirmed[-1] == (1, 2)
    assert sink.moves == [(1, THERE)]


def test_moved_comes_after_the_release(rig: DurableRig, sink: RecordingSink) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    asked(rig, ref, take_over=True)
    rig.tick()
    assert [type(request) for request in rig.store.waiting] == [Release]
    rig.tick()
    assert sink.moves == []
    rig.store.run()
    rig.tick()
    assert sink.moves == [(1, THERE)]


def test_the_newest_binding_is_known_at_the_next_holder(
    rig: DurableRig, sink: RecordingSink
) -> None:
    """R10: nothing has run since the Bind, and the store has to know of it all the same."""
    ref = bound(rig, sink, Hold.FOLLOWER)
    rig.attach(ref, sink, 2, hold=Hold.FOLLOWER, attach_id=7)
    assert rig.until(asked(rig, ref, take_over=True).reply) is Handed.MOVED
    again = DurableRig(medium=rig.medium, replica="there")
    late = Bind(again.resume(), RecordingSink(), 1, attach_id=6)
    again.engine.submit(late)
    again.turn()
    assert "SUPERSEDED" in str(late.reply.exception(timeout=0))


# -- who is told, and how


def test_a_door_of_calls_is_told_that_its_session_is_away(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = bound(rig, sink, Hold.CALLS)
    assert rig.until(asked(rig, ref).reply) is Handed.MOVED
    assert [tag for tag, _ in sink.gone_away] == [1]


def test_a_call_that_runs_is_answered_first(rig: DurableRig, sink: RecordingSink) -> None:
    ref = bound(rig, sink, Hold.CALLS)
    rig.send(sink, ref, 2, 2)
    assert rig.until(asked(rig, ref).reply) is Handed.MOVED
    assert [seq for seq, _ in sink.of(1)] == [1, 2]
    assert rig.store.store.read(KEY).seq == 2


def test_a_call_that_comes_while_the_store_is_waited_for_runs_at_once(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = bound(rig, sink, Hold.CALLS)
    rig.send(sink, ref, 2, 2)
    rig.tick()
    command = asked(rig, ref)
    rig.tick()
    assert not command.reply.done()
    rig.send(sink, ref, 3, 3)
    for _ in range(3):
        rig.tick()
    assert [seq for seq, _ in sink.of(1)] == [1, 2, 3]
    assert rig.until(command.reply) is Handed.MOVED
    assert rig.store.store.read(KEY).seq == 3


@pytest.mark.parametrize("hold", [Hold.STREAM, Hold.FOLLOWER])
def test_a_session_of_a_stream_stays(rig: DurableRig, sink: RecordingSink, hold: Hold) -> None:
    ref = bound(rig, sink, hold)
    assert rig.until(asked(rig, ref).reply) is Handed.KEPT
    rig.send(sink, ref, 2, 2)
    rig.settle()
    assert [seq for seq, _ in sink.of(1)] == [1, 2]


def test_a_stream_that_does_not_follow_binds_again_if_its_session_is_taken_over(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = bound(rig, sink, Hold.STREAM)
    assert rig.until(asked(rig, ref, take_over=True).reply) is Handed.MOVED
    ((tag, error),) = sink.gone
    assert (tag, error.reason, error.metadata) == (1, "LEASE_LOST", {"owner": THERE})
    assert error.spec.retryable
    assert sink.moves == []


def test_a_block_for_a_session_that_has_just_left_comes_back(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    command = asked(rig, ref, take_over=True)
    rig.tick()
    rig.send(sink, ref, 2, 2)
    assert rig.until(command.reply) is Handed.MOVED
    assert [(tag, block.first_seqs) for tag, block in sink.back] == [(1, [2])]
    assert sink.refusals == []


# -- what stays


def test_a_session_that_was_fetched_for_someone_waits_for_its_binding(
    rig: DurableRig, sink: RecordingSink
) -> None:
    rig.open_durable()
    again = rig.restart()
    ref = again.resume()
    command = asked(again, ref)
    again.turn()
    again.attach(ref, sink, hold=Hold.STREAM)
    assert again.until(command.reply) is Handed.KEPT


def test_one_that_no_one_has_bound_in_time_leaves(rig: DurableRig) -> None:
    rig.open_durable()
    again = rig.restart()
    command = asked(again, again.resume())
    again.turn()
    assert not command.reply.done()
    again.now += 0.2
    assert again.until(command.reply) is Handed.MOVED


def test_a_session_without_a_store_stays(rig: DurableRig, sink: RecordingSink) -> None:
    ref = rig.open(durability=Durability.NONE)
    rig.attach(ref, sink, hold=Hold.FOLLOWER)
    assert rig.until(asked(rig, ref, take_over=True).reply) is Handed.KEPT
    rig.engine.submit(SetOwners([THERE], ""))
    move = MoveAway(Why.DRAIN, 8)
    rig.engine.submit(move)
    assert rig.until(move.reply) == ((0,), 0)


def test_a_store_that_fails_loses_nothing_and_the_session_goes_on(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    rig.send(sink, ref, 2, 2)
    rig.tick()
    command = asked(rig, ref, take_over=True)
    rig.send(sink, ref, 3, 3)
    for _ in range(30):
        rig.tick()
        rig.store.refuse()
        rig.now += 0.05
    assert command.reply.result(timeout=0) is Handed.FAILED
    rig.rest()
    assert [seq for seq, _ in sink.of(1)] == [1, 2, 3]
    assert rig.store.store.read(KEY).seq == 3
    assert (sink.moves, sink.gone) == ([], [])


def test_a_release_whose_answer_is_lost_is_told_all_the_same(
    rig: DurableRig, sink: RecordingSink
) -> None:
    """The session has left its row. Only a Moved lets its client look for it."""
    ref = bound(rig, sink, Hold.FOLLOWER)
    asked(rig, ref, take_over=True)
    rig.tick()
    rig.store.run_one(lose_answer=True)
    rig.tick()
    assert sink.moves == [(1, THERE)]


@pytest.mark.parametrize("how", ["closed", "lapsed"])
def test_a_session_that_goes_otherwise_meanwhile(
    rig: DurableRig, sink: RecordingSink, how: str
) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    rig.send(sink, ref, 2, 2)
    rig.tick()
    command = asked(rig, ref, take_over=True)
    rig.tick()
    if how == "closed":
        rig.engine.submit(Close(ref))
    else:
        rig.store.lease_lost += 1
    rig.rest()
    assert command.reply.result(timeout=0) is Handed.GONE
    assert (len(rig.engine._hand_overs), sink.moves) == (0, [])


def test_one_that_is_gone_or_leaves_already(rig: DurableRig, sink: RecordingSink) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    first, second = (asked(rig, ref, take_over=True) for _ in range(2))
    assert rig.until(second.reply) is Handed.GONE
    assert rig.until(first.reply) is Handed.MOVED
    assert rig.until(asked(rig, ref).reply) is Handed.GONE


def test_one_who_insists_is_heard_while_the_session_is_about_to_leave(
    rig: DurableRig, sink: RecordingSink
) -> None:
    """The first to ask would have been told that a stream has bound the session meanwhile."""
    rig.open_durable()
    again = rig.restart()
    ref = again.resume()
    first = asked(again, ref)
    again.turn()
    second = asked(again, ref, take_over=True)
    again.turn()
    assert second.reply.result(timeout=0) is Handed.GONE
    again.attach(ref, sink, hold=Hold.FOLLOWER)
    assert again.until(first.reply) is Handed.MOVED


def test_an_engine_that_ends_answers(rig: DurableRig, sink: RecordingSink) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    rig.send(sink, ref, 2, 2)
    rig.tick()
    command = asked(rig, ref, take_over=True)
    rig.tick()
    rig.engine.stop()
    assert command.reply.result(timeout=0) is Handed.FAILED


def test_an_engine_that_ends_while_the_store_releases_tells_of_the_move(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = bound(rig, sink, Hold.FOLLOWER)
    command = asked(rig, ref, take_over=True)
    rig.tick()
    rig.engine.stop()
    rig.store.run()
    assert command.reply.result(timeout=0) is Handed.MOVED
    assert sink.moves == [(1, THERE)]


# -- generations


@pytest.fixture
def speaking() -> DurableRig:
    return DurableRig(RunningSum(tokens=True))


def test_a_generation_is_spared_unless_the_session_is_taken_over(speaking: DurableRig) -> None:
    ref = speaking.open_durable()
    told = speaking.generate(ref, [1, 2], max_tokens=40, first_seq=1)
    speaking.turn()
    assert speaking.until(asked(speaking, ref).reply) is Handed.KEPT
    assert not told.done


def test_a_generation_goes_on_at_the_next_holder(speaking: DurableRig) -> None:
    quiet = DurableRig(RunningSum(tokens=True))
    whole = quiet.generate(quiet.open_durable(), [1, 2], max_tokens=9, first_seq=1)
    quiet.rest()
    ref = speaking.open_durable()
    told = speaking.generate(ref, [1, 2], max_tokens=9, first_seq=1)
    for _ in range(4):
        speaking.turn()
    assert speaking.until(asked(speaking, ref, take_over=True).reply) is Handed.MOVED
    assert told.error is not None
    assert (told.error.reason, told.error.metadata) == ("LEASE_LOST", {"owner": THERE})
    again = DurableRig(RunningSum(tokens=True), medium=speaking.medium, replica="there")
    once_more = again.generate(again.resume(), [1, 2], max_tokens=9, first_seq=1)
    again.rest()
    assert 0 < len(told.ids) < len(whole.ids)
    assert once_more.ids == whole.ids
    assert told.ids == whole.ids[: len(told.ids)]


def test_a_generation_leaves_a_session_that_a_door_of_calls_has(
    speaking: DurableRig, sink: RecordingSink
) -> None:
    ref = speaking.open_durable()
    speaking.attach(ref, sink, hold=Hold.CALLS)
    told = speaking.generate(ref, [1], max_tokens=100, first_seq=1)
    speaking.turn()
    assert speaking.until(asked(speaking, ref, take_over=True).reply) is Handed.MOVED
    assert told.error is not None
    assert told.error.metadata == {"owner": THERE}


# -- owners


def ids_of(owner: str, addresses: list[str], count: int) -> list[str]:
    """Ids of sessions that belong to an owner."""
    found = (f"s{i}" for i in range(10_000))
    mine = (one for one in found if placed(one, addresses) == owner)
    return [next(mine) for _ in range(count)]


def owners(rig: DurableRig, addresses: list[str], own: str = HERE) -> None:
    rig.engine.submit(SetOwners(addresses, own))
    rig.tick()


def move(rig: DurableRig, why: Why, most: int = 8, budgets: tuple[int, ...] = ()) -> Any:
    command = MoveAway(why, most, budgets)
    rig.engine.submit(command)
    return rig.until(command.reply)


def test_steps_are_counted_by_their_owner(rig: DurableRig, sink: RecordingSink) -> None:
    addresses = [HERE, THERE]
    (mine,), (theirs,) = ids_of(HERE, addresses, 1), ids_of(THERE, addresses, 1)
    owners(rig, addresses)
    for session_id, count in ((mine, 1), (theirs, 2)):
        ref = rig.open_durable(session_id)
        rig.attach(ref, sink)
        rig.send(sink, ref, 1, *range(count))
        rig.rest()
    assert (rig.metrics.at_owner, rig.metrics.elsewhere) == (1, 2)
    assert rig.engine._rows.placing.misplaced == 1
    owners(rig, [HERE])
    assert rig.engine._rows.placing.misplaced == 0, "alone, it owns all"


def test_each_session_goes_to_its_owner(rig: DurableRig) -> None:
    addresses = [HERE, THERE, YONDER]
    sinks: dict[str, RecordingSink] = {}
    for session_id in (f"s{i}" for i in range(8)):
        sinks[session_id] = RecordingSink()
        bound(rig, sinks[session_id], Hold.FOLLOWER, session_id)
    owners(rig, addresses)
    expected = {one: placed(one, addresses) for one in sinks}
    moved, left = move(rig, Why.REBALANCE)
    assert left == 0
    assert list(moved) == [
        sum(expected[one] == at for one in sinks) if at != HERE else 0 for at in addresses
    ]
    for session_id, one in sinks.items():
        at = expected[session_id]
        assert one.moves == ([] if at == HERE else [(1, at)])
        assert is_held(rig, session_id) == (at == HERE)


def test_no_more_than_asked_for_and_no_more_to_one_owner(rig: DurableRig) -> None:
    addresses = [HERE, THERE, YONDER]
    for session_id in (*ids_of(THERE, addresses, 4), *ids_of(YONDER, addresses, 4)):
        bound(rig, RecordingSink(), Hold.FOLLOWER, session_id)
    owners(rig, addresses)
    assert move(rig, Why.REBALANCE, most=1)[1] == 7
    assert move(rig, Why.REBALANCE, budgets=(0, 1, 2)) == ((0, 1, 2), 4)
    assert move(rig, Why.REBALANCE, most=0) == ((0, 0, 0), 4)


def test_a_rebalance_spares_those_whom_it_would_disturb(speaking: DurableRig) -> None:
    stays = {
        "stream": Hold.STREAM,
        "call": Hold.CALLS,
        "generation": Hold.NONE,
    }
    for session_id, hold in stays.items():
        ref = speaking.open_durable(session_id)
        if hold is not Hold.NONE:
            speaking.attach(ref, RecordingSink(), hold=hold)
        else:
            speaking.generate(ref, [1], max_tokens=100, first_seq=1)
    owners(speaking, [THERE])
    assert move(speaking, Why.REBALANCE) == ((0,), 0)
    speaking.now += 1.5
    assert move(speaking, Why.REBALANCE) == ((1,), 0), "the session of calls is still"


def test_a_drain_takes_all_but_streams_that_do_not_follow(speaking: DurableRig) -> None:
    kept = RecordingSink()
    speaking.attach(speaking.open_durable("stream"), kept, hold=Hold.STREAM)
    speaking.attach(speaking.open_durable("call"), RecordingSink(), hold=Hold.CALLS)
    again = speaking.generate(speaking.open_durable("again"), [1], max_tokens=100, first_seq=1)
    once = speaking.generate(speaking.open_durable("once"), [1], max_tokens=100)
    speaking.open_durable("idle")
    speaking.engine.drain()
    owners(speaking, [THERE], "")
    assert move(speaking, Why.DRAIN) == ((3,), 0)
    assert again.error is not None
    assert again.error.metadata == {"owner": THERE}
    assert not once.done
    assert kept.gone == []


def test_sessions_that_cannot_leave_stop_no_others(rig: DurableRig) -> None:
    """As those of a shard of the store that does not answer."""
    for session_id in ("a", "b"):
        ref, stuck = rig.open_durable(session_id), RecordingSink()
        rig.attach(ref, stuck, hold=Hold.FOLLOWER)
        rig.send(stuck, ref, 1, 1)
        rig.tick()
    for session_id in ("c", "d"):
        rig.open_durable(session_id)
    owners(rig, [THERE], "")
    answers = []
    for _ in range(2):
        command = MoveAway(Why.DRAIN, 2)
        rig.engine.submit(command)
        for _ in range(30):
            rig.tick()
            rig.store.refuse()
            rig.now += 0.05
        answers.append(command.reply.result(timeout=0))
    assert answers == [((0,), 4), ((2,), 2)]


def test_a_session_that_comes_back_stays_longer_each_time(sink: RecordingSink) -> None:
    """Its client cannot reach the owner, so to send it away again would be for nothing."""
    rig = DurableRig(park_after_s=1e6)
    owners(rig, [THERE])
    bound(rig, sink, Hold.FOLLOWER)
    began_s, stays = rig.now, []
    for _ in range(100):
        if move(rig, Why.REBALANCE) == ((1,), 0):
            stays.append(round(rig.now - began_s))
            began_s = rig.now
            rig.resume()
        rig.now += 5.0
    assert stays == [0, 60, 120, 240]


def test_a_session_that_was_taken_over_stays(rig: DurableRig) -> None:
    rig.open_durable()
    again = DurableRig(medium=rig.medium)
    owners(again, [THERE])
    record = again.store.store.acquire(KEY, epoch_floor=0, new=None)
    command = Activate(record, asked=True, taken_over=True)
    again.engine.submit(command)
    again.until(command.reply)
    assert again.metrics.moves == ["received", "resumed"]
    assert move(again, Why.REBALANCE) == ((0,), 0)
    again.now += 61.0
    assert move(again, Why.REBALANCE) == ((1,), 0)


def test_a_lone_replica_owns_what_it_has(rig: DurableRig) -> None:
    rig.open_durable()
    for addresses, own in (([], ""), ([HERE], HERE)):
        owners(rig, addresses, own)
        assert move(rig, Why.REBALANCE).left == 0
    assert np.flatnonzero(rig.engine._rows.table.elsewhere).size == 0
