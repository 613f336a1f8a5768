"""Sessions that a store keeps: what is told when, what survives, who may go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Ack, Bind, Close, Export, Fork, Import, Replay, StepBlock
from carousel_server.core.store import (
    UNANSWERED,
    Commit,
    CommitGroup,
    Outcome,
    SessionKey,
    Verdict,
)
from carousel_server.core.types import Durability, OpenSpec, Phase
from carousel_server.residency.room import STAY_S
from carousel_server.rows.snapshot import encode
from carousel_server.store.memory import MemoryStore

from .durable_rig import DurableRig
from .fakes import RecordingSink, RunningSum

KEY = SessionKey("t", "s")


@pytest.fixture
def rig() -> DurableRig:
    return DurableRig()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


def sums(*values: float) -> list[tuple[int, list[float]]]:
    return [(i + 1, [float(v), -float(v)]) for i, v in enumerate(np.cumsum(values))]


def refusal(rig: DurableRig, future: object) -> CarouselError:
    with pytest.raises(CarouselError) as caught:
        rig.until(future)  # type: ignore[arg-type]
    return caught.value


# -- what is told when


def test_an_open_session_is_in_the_store_before_anybody_is_told(rig: DurableRig) -> None:
    opened = rig.catalog.open(rig.engine, OpenSpec("t", "s"))
    rig.tick()
    assert not opened.done()
    ref, view = rig.until(opened)
    assert (view.durability, view.epoch, view.phase) == (Durability.ASYNC, 1, Phase.RESIDENT)
    assert rig.store.store.read(KEY).held
    assert rig.until(rig.catalog.open(rig.engine, OpenSpec("t", "s"))) == (ref, view)


def test_async_outputs_come_at_once_and_durable_after_the_stores_answer(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.tick()
    assert sink.of(1) == sums(1, 2)
    assert not sink.confirmed
    rig.now += 0.04  # more than two thirds of durable_s
    rig.tick()
    assert [type(r) for r in rig.store.waiting] == [CommitGroup]
    rig.tick()
    assert not sink.confirmed, "told before the store has answered"
    rig.turn()
    rig.tick()
    assert sink.confirmed == [(1, 2)]


def test_sync_outputs_wait_for_the_store(rig: DurableRig, sink: RecordingSink) -> None:
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.tick()
    rig.send(sink, ref, 3, 3)
    rig.tick()
    assert not sink.steps
    rig.store.run()
    rig.tick()
    assert (sink.of(1), sink.confirmed) == (sums(1, 2), [(1, 2)])
    rig.rest()
    assert (sink.of(1), sink.confirmed) == (sums(1, 2, 3), [(1, 2), (1, 3)])


def test_what_sync_has_not_told_can_neither_be_asked_for_nor_acknowledged(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.tick()
    rig.engine.submit(Ack(sink, [ref], [2]))
    rig.engine.submit(Replay(ref, sink))
    rig.send(sink, ref, 1, 1, 2)
    rig.tick()
    assert not sink.steps
    assert rig.engine._rows.table.ack[ref.row] == 0
    rig.rest()
    assert sink.of(1) == sums(1, 2)


def test_fsync_is_asked_of_the_store_only_where_a_session_wants_it(
    sink: RecordingSink,
) -> None:
    rig = DurableRig()
    rig.store.levels = frozenset(Durability)
    for name, level in (("a", Durability.SYNC), ("b", Durability.SYNC_FSYNC)):
        ref = rig.open_durable(name, level)
        rig.attach(ref, sink)
        rig.send(sink, ref, 1, 1)
        rig.rest()
    assert [group.fsync for group in rig.store.commits] == [False, True]


def test_an_async_session_runs_no_further_ahead_than_its_bound(
    sink: RecordingSink,
) -> None:
    rig = DurableRig(durable_steps=3, window_steps=8)
    ref, other = rig.open_durable(), rig.open_durable("free", Durability.NONE)
    rig.attach(ref, sink)
    rig.run(Bind(other, sink, 2))
    rig.send(sink, ref, 1, *range(1, 9))
    rig.send(sink, other, 1, *range(1, 9), tag=2)
    for _ in range(5):
        rig.tick()
    assert len(sink.of(1)) == 3
    assert len(sink.of(2)) == 8, "a neighbour without a store waits for nobody"
    assert rig.engine.idle, "what waits for the store is no work"
    rig.rest()
    assert sink.of(1) == sums(*range(1, 9))


def test_a_shard_that_fails_holds_up_its_own_sessions_only(
    rig: DurableRig, sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [rig.open_durable(name, Durability.SYNC) for name in ("well", "ill")]
    for tag, ref in enumerate(refs, 1):
        rig.run(Bind(ref, sink, tag))
        rig.send(sink, ref, 1, tag, tag=tag)
    commit = rig.store.store.commit

    def partly(commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        done = iter(commit([one for one in commits if one.key.id != "ill"], fsync=fsync))
        return [UNANSWERED if one.key.id == "ill" else next(done) for one in commits]

    monkeypatch.setattr(rig.store.store, "commit", partly)
    for _ in range(5):
        rig.tick()
        rig.turn()
        rig.now += 0.05
    assert sink.of(1) == [(1, [1.0, -1.0])]
    assert sink.of(2) == [], "it waits, and its session stays"
    monkeypatch.setattr(rig.store.store, "commit", commit)
    rig.now += 1.0
    rig.rest()
    assert sink.of(2) == [(1, [2.0, -2.0])]
    rig.engine.check_integrity()


def test_steps_of_many_sessions_are_committed_as_one_group(
    rig: DurableRig, sink: RecordingSink
) -> None:
    refs = [rig.open_durable(name, Durability.SYNC) for name in "abcd"]
    for tag, ref in enumerate(refs):
        rig.attach(ref, sink, tag)
    for tag, ref in enumerate(refs):
        rig.send(sink, ref, 1, 1, tag=tag)
    rig.turn()
    assert [len(group.commits) for group in rig.store.commits] == [4]


# -- faults of the store


def test_an_outage_loses_nothing_and_stops_only_who_needs_the_store(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    rig.store.refuse()
    rig.tick()
    assert not sink.steps
    assert not rig.store.waiting, "the store is left alone for a while"
    rig.now += 0.2
    rig.rest()
    assert sink.of(1) == sums(1)


def test_a_lost_answer_is_made_good_by_the_next(rig: DurableRig, sink: RecordingSink) -> None:
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    rig.store.run_one(lose_answer=True)
    rig.tick()
    assert not sink.confirmed
    rig.now += 0.2
    rig.rest()
    outcome = rig.store.commits[-1].reply.result()[0]
    assert (outcome.verdict, outcome.seq) == (Verdict.DONE, 1)
    assert (sink.of(1), sink.confirmed) == (sums(1), [(1, 1)])


def test_a_session_that_another_has_activated_is_let_go_of(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    other = MemoryStore(rig.medium, owner="here", now=lambda: 1e9 + rig.now)
    assert other.acquire(KEY, epoch_floor=0, new=None).epoch == 2
    rig.rest()
    assert [error.reason for _, error in sink.gone] == ["LEASE_LOST"]
    assert rig.engine._rows.slots.used == 0
    assert rig.resume() is not None, "and can be had again"
    assert rig.store.store.read(KEY).epoch == 3


def test_nothing_runs_once_the_lease_is_over_and_all_is_let_go_of_when_it_was_lost(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.store.lease_until_s = rig.now - 1
    rig.send(sink, ref, 1, 1)
    rig.tick()
    assert not sink.steps
    assert rig.engine.idle
    rig.store.lease_until_s = rig.now + 10
    rig.tick()
    assert sink.of(1) == sums(1)
    rig.store.lease_lost = 1
    rig.tick()
    assert [error.reason for _, error in sink.gone] == ["LEASE_LOST"]


# -- death and return


def test_a_session_survives_its_server(rig: DurableRig, sink: RecordingSink) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.rest()
    rig.send(sink, ref, 3, 3)
    rig.tick()  # runs, is told, and dies before the store has it

    again, sink = rig.restart(), RecordingSink()
    ref = again.resume()
    view = again.attach(ref, sink)
    assert (view.applied, view.durable, view.ack, view.epoch) == (2, 2, 0, 2)
    again.engine.submit(Replay(ref, sink))
    again.send(sink, ref, 3, 3, 4)
    again.rest()
    assert sink.of(1) == sums(1, 2, 3, 4)


def test_a_session_that_has_never_stepped_survives_too(rig: DurableRig) -> None:
    rig.open_durable(seed=5)
    again = rig.restart()
    view = again.attach(again.resume(), RecordingSink())
    assert (view.applied, view.seed, view.durability) == (0, 5, Durability.ASYNC)


def test_a_session_without_a_store_is_unknown_after_a_restart(rig: DurableRig) -> None:
    rig.open_durable("n", Durability.NONE)
    again = rig.restart()
    assert refusal(again, again.catalog.resume("t", "n")).reason == "SESSION_NOT_FOUND"


def test_every_activation_has_a_higher_epoch_than_any_seen(rig: DurableRig) -> None:
    rig.open_durable()
    again = rig.restart()
    assert again.attach(again.resume(epoch_floor=7), RecordingSink()).epoch == 8


def test_a_session_of_a_lower_epoch_than_its_client_has_seen_is_not_used(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    command = Bind(ref, sink, 1, epoch_floor=4)
    rig.engine.submit(command)
    assert refusal(rig, command.reply).reason == "LEASE_LOST"
    assert rig.attach(rig.resume(epoch_floor=4), sink, epoch_floor=4).epoch == 5


def test_a_damaged_snapshot_is_named_counted_and_kept(
    rig: DurableRig, sink: RecordingSink, caplog: pytest.LogCaptureFixture
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.rest()
    store = MemoryStore(rig.medium, owner="here", now=lambda: 1e9 + rig.now)
    record = store.acquire(KEY, epoch_floor=0, new=None)
    bad = bytearray(record.snapshot)
    bad[40] ^= 1
    store.commit([Commit(KEY, record.epoch, 2, bytes(bad), 1e9)], fsync=False)
    again = rig.restart()
    error = refusal(again, again.catalog.resume("t", "s"))
    assert error.reason == "SNAPSHOT_DAMAGED"
    assert "checksum" in error.message
    assert again.store.store.read(KEY).seq == 2
    assert again.metrics.losses == ["SNAPSHOT_DAMAGED"]
    assert "model sum: SNAPSHOT_DAMAGED: session 's'" in caplog.text


def test_a_closed_session_stays_closed(rig: DurableRig) -> None:
    ref = rig.open_durable()
    command = Close(ref)
    rig.engine.submit(command)
    rig.tick()
    assert not command.reply.done(), "told before the store has forgotten it"
    assert rig.until(command.reply).phase is Phase.CLOSED
    assert refusal(rig, rig.catalog.resume("t", "s")).reason == "SESSION_CLOSED"
    again = rig.restart()
    assert refusal(again, again.catalog.resume("t", "s")).reason == "SESSION_CLOSED"


# -- binding


def test_whoever_binds_owes_nothing_of_what_ran_before(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.tick()
    newer = RecordingSink()
    command = Bind(ref, newer, 2)
    rig.engine.submit(command)
    rig.tick()
    assert [error.reason for _, error in sink.gone] == ["SUPERSEDED"]
    assert not command.reply.done()
    view = rig.until(command.reply)
    assert view.durable == view.applied == 2


def test_what_the_superseded_had_accepted_and_not_run_is_its_own_again(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    newer = RecordingSink()
    view = rig.attach(ref, newer, 2)
    assert view.applied == 0
    rig.send(newer, ref, 1, 5, tag=2)
    rig.rest()
    assert newer.of(2) == sums(5)


def test_a_bind_from_the_past_loses(rig: DurableRig, sink: RecordingSink) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink, attach_id=9)
    late = Bind(ref, RecordingSink(), 1, attach_id=8)
    rig.engine.submit(late)
    error = refusal(rig, late.reply)
    assert (error.reason, error.metadata) == ("SUPERSEDED", {"attach_id": "9"})
    assert not sink.gone
    rig.send(sink, ref, 1, 1)
    rig.rest()
    again = rig.restart()
    late = Bind(again.resume(), sink, 1, attach_id=8)
    again.engine.submit(late)
    assert refusal(again, late.reply).reason == "SUPERSEDED", "also after a restart"


def test_a_bind_during_an_outage_is_refused_and_can_be_repeated(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    command = Bind(ref, sink, 2)
    rig.engine.submit(command)
    rig.tick()
    rig.store.refuse()
    rig.tick()
    assert refusal(rig, command.reply).reason == "STORE_UNAVAILABLE"
    rig.now += 0.2
    assert rig.attach(ref, sink, 3).durable == 1


# -- parking


def test_an_idle_session_gives_its_slot_back_and_returns_at_its_next_block(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.rest()
    rig.now += 61
    rig.turn()
    rig.turn()
    assert (sink.gone_away, rig.engine._rows.slots.used) == ([(1, 0)], 0)
    assert not rig.store.store.read(KEY).held
    assert rig.until(rig.catalog.peek("t", "s")).phase is Phase.PARKED
    rig.send(sink, ref, 2, 2)
    rig.tick()
    ((tag, late),) = sink.back
    assert (tag, late.first_seqs) == (1, [2])
    ref = rig.resume()
    rig.attach(ref, sink, ack=1)
    assert rig.engine._rows.table.ack[ref.row] == 1
    rig.send(sink, ref, 2, 2)
    rig.rest()
    assert sink.of(1) == sums(1, 2)
    assert rig.metrics.moves == ["parked", "resumed"]


def test_a_full_slab_parks_who_was_idle_for_longest(rig: DurableRig, sink: RecordingSink) -> None:
    for number in range(8):
        rig.open_durable(f"s{number}")
        rig.now += 0.1
    rig.send(sink, rig.resume("s0"), 1, 1)
    rig.open_durable("one-more")
    assert rig.engine._rows.slots.used == 8
    views = [rig.until(rig.catalog.peek("t", f"s{number}")).phase for number in range(8)]
    assert views.count(Phase.PARKED) == 1


def test_a_slab_full_of_busy_sessions_refuses(sink: RecordingSink) -> None:
    rig = DurableRig(slots=2)
    for tag, name in enumerate("ab"):
        ref = rig.open_durable(name)
        rig.attach(ref, sink, tag)
        rig.send(sink, ref, 1, 1, tag=tag)
    rig.tick()  # both have run what the store lacks
    opened = rig.catalog.open(rig.engine, OpenSpec("t", "c"))
    rig.store.run()
    rig.tick()
    assert not opened.done(), "a commit would make room"
    rig.store.refuse()
    rig.now += 0.6
    rig.tick()
    assert refusal(rig, opened).reason == "SLAB_FULL"
    rig.store.run()
    with pytest.raises(CarouselError, match="SESSION_CLOSED"):
        rig.store.store.read(SessionKey("t", "c"))


def test_who_finds_the_slab_full_waits_for_a_commit_and_comes_in(sink: RecordingSink) -> None:
    rig = DurableRig(slots=2)
    for tag, name in enumerate("ab"):
        ref = rig.open_durable(name)
        rig.attach(ref, sink, tag)
        rig.send(sink, ref, 1, 1, tag=tag)
    rig.tick()
    for name in "cd":
        rig.now += 0.01
        rig.until(rig.catalog.open(rig.engine, OpenSpec("t", name)))
    assert sink.gone_away == [(0, 0), (1, 0)], "who was idle for longest has made room"


def test_a_session_that_was_fetched_keeps_its_row_until_its_first_step(
    sink: RecordingSink,
) -> None:
    """Or two who want one slot would push each other out for ever."""
    rig = DurableRig(slots=1)
    for name in "ab":
        rig.open_durable(name)
        rig.now += STAY_S
    ref = rig.resume("a")
    wanted = rig.catalog.resume("t", "b")
    rig.turn()
    rig.turn()
    assert not wanted.done(), "a has not had its turn"
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 5)
    rig.until(wanted)
    assert sink.of(1) == sums(5)


def test_one_that_never_steps_makes_room_after_a_moment() -> None:
    rig = DurableRig(slots=1)
    rig.open_durable("a")
    wanted = rig.catalog.open(rig.engine, OpenSpec("t", "b"))
    rig.turn()
    rig.turn()
    assert not wanted.done()
    rig.now += STAY_S
    rig.until(wanted)


def test_two_who_want_a_parked_session_at_once_share_one_activation(rig: DurableRig) -> None:
    rig.open_durable()
    again = rig.restart()
    first, second = again.catalog.resume("t", "s"), again.catalog.resume("t", "s")
    assert again.until(first) == again.until(second)
    assert again.store.store.read(KEY).epoch == 2


# -- copies


@pytest.mark.parametrize("kind", ["fork", "import"])
def test_a_copy_is_in_the_store_before_anybody_is_told(
    rig: DurableRig, sink: RecordingSink, kind: str
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.rest()
    export = Export(ref)
    rig.engine.submit(export)
    snapshot = rig.until(export.reply)[0]
    spec = OpenSpec("t", "copy")
    command = Fork(ref, spec) if kind == "fork" else Import(snapshot, spec)
    rig.until(rig.catalog.copy(rig.engine, command))
    again = rig.restart()
    assert again.attach(again.resume("copy"), RecordingSink()).applied == 2
    taken = again.catalog.copy(again.engine, Import(snapshot, spec))
    assert refusal(again, taken).reason == "SESSION_EXISTS"


# -- generations


@pytest.mark.parametrize("durability", [Durability.ASYNC, Durability.SYNC])
def test_a_generation_goes_on_where_its_server_died(durability: Durability) -> None:
    model = RunningSum(tokens=True)
    whole = DurableRig(model)
    expected = whole.generate(whole.open_durable("s", durability, seed=3), [1, 2], max_tokens=20)
    whole.rest()
    assert expected.end is not None

    rig = DurableRig(model)
    ref = rig.open_durable("s", durability, seed=3)
    told = rig.generate(ref, [1, 2], max_tokens=20, first_seq=1)
    for _ in range(6):
        rig.turn()
        rig.now += 0.01
    assert 0 < len(told.ids) < 20
    again = rig.restart()
    ref = again.resume()
    assert again.engine._rows.table.applied[ref.row] > 2
    retold = again.generate(ref, [1, 2], max_tokens=20, first_seq=1)
    again.rest()
    assert retold.ids == expected.ids
    assert retold.end == expected.end
    assert retold.ids[: len(told.ids)] == told.ids


def test_the_end_of_a_generation_waits_for_the_store() -> None:
    rig = DurableRig(RunningSum(tokens=True))
    ref = rig.open_durable()
    told = rig.generate(ref, [1], max_tokens=2, first_seq=1)
    for _ in range(4):
        rig.tick()
    assert len(told.ids) == 2
    assert told.end is None
    rig.store.run()
    rig.rest()
    assert told.end is not None
    assert rig.engine._rows.table.durable[ref.row] == told.end.applied


def test_of_two_calls_for_one_generation_the_later_has_it_whichever_comes_first() -> None:
    """The first may have waited for the session for longer, and its client have given it up."""
    rig = DurableRig(RunningSum(tokens=True))
    ref = rig.open_durable()
    later = rig.generate(ref, [1], max_tokens=5, first_seq=1, asked_s=2.0)
    rig.tick()
    earlier = rig.generate(ref, [1], max_tokens=5, first_seq=1, asked_s=1.0)
    rig.rest()
    assert earlier.error is not None
    assert earlier.error.reason == "SUPERSEDED"
    assert (len(later.ids), later.error) == (5, None)


@pytest.mark.parametrize("durability", [Durability.ASYNC, Durability.SYNC])
def test_an_older_call_takes_no_end_that_waits_for_the_store(durability: Durability) -> None:
    """The newer call's last token was drawn, but the store has not confirmed it yet."""
    rig = DurableRig(RunningSum(tokens=True))
    ref = rig.open_durable(durability=durability)
    later = rig.generate(ref, [1], max_tokens=2, first_seq=1, asked_s=2.0)
    for _ in range(3):
        rig.tick()
    assert rig.store.waiting
    assert later.end is None
    earlier = rig.generate(ref, [1], max_tokens=2, first_seq=1, asked_s=1.0)
    rig.rest()
    assert earlier.error is not None
    assert earlier.error.reason == "SUPERSEDED"
    assert (len(later.ids), later.error) == (2, None)
    assert later.end is not None
    again = rig.generate(ref, [1], max_tokens=2, first_seq=1, asked_s=3.0)
    rig.rest()
    assert (again.got, again.end) == (later.got, later.end)


def test_a_generation_asked_again_tells_the_same_and_another_is_refused() -> None:
    rig = DurableRig(RunningSum(tokens=True))
    ref = rig.open_durable()
    first = rig.generate(ref, [1], max_tokens=5, first_seq=1, logprobs=2)
    rig.rest()
    again = rig.restart()
    ref = again.resume()
    second = again.generate(ref, [1], max_tokens=5, first_seq=1, logprobs=2)
    other = again.generate(ref, [2], max_tokens=5, first_seq=1, logprobs=2)
    again.rest()
    assert second.got == first.got
    assert second.end == first.end
    assert other.error is not None
    assert other.error.reason == "SEQUENCE_REUSED"
    more = again.generate(ref, None, max_tokens=1)
    again.rest()
    assert more.end is not None
    assert more.end.applied == 6


# -- drain


def test_a_drain_brings_everything_to_the_store(rig: DurableRig, sink: RecordingSink) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    assert rig.engine.pending()
    rig.engine.drain()
    rig.now += 0.3
    rig.turn()
    rig.turn()
    assert not rig.engine.pending()
    assert rig.store.store.read(KEY).seq == 1
    error = refusal(rig, rig.catalog.open(rig.engine, OpenSpec("t", "new")))
    assert error.reason == "DRAINING"


# -- what a review has found


def test_a_name_on_one_model_is_no_door_to_another(rig: DurableRig) -> None:
    other_model = RunningSum()
    other_model.manifest = other_model.manifest.model_copy(update={"name": "other"})
    rig.open_durable()
    other = DurableRig(other_model, medium=rig.medium)
    rig.catalog._activation._engines["other"] = other.engine  # type: ignore[union-attr, index]
    opened = rig.catalog.open(other.engine, OpenSpec("t", "s"))
    assert refusal(rig, opened).reason == "SESSION_EXISTS"


@pytest.mark.parametrize("kind", ["fork", "import"])
def test_a_copy_keeps_its_seed_and_ttl_over_a_restart(rig: DurableRig, kind: str) -> None:
    ref = rig.open_durable(seed=5, idle_ttl_s=77.0)
    export = Export(ref)
    rig.engine.submit(export)
    snapshot = rig.until(export.reply)[0]
    spec = OpenSpec("t", "copy")
    command = Fork(ref, spec) if kind == "fork" else Import(snapshot, spec)
    made = rig.until(rig.catalog.copy(rig.engine, command))[1]
    again = rig.restart()
    found = again.attach(again.resume("copy"), RecordingSink())
    assert (made.seed, made.idle_ttl_s) == (found.seed, found.idle_ttl_s) == (5, 77.0)
    assert made.created_at_unix_s == found.created_at_unix_s


def test_a_copy_that_dies_halfway_is_the_copy_or_nothing(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.rest()
    rig.catalog.copy(rig.engine, Fork(ref, OpenSpec("t", "copy")))
    rig.tick()
    rig.store.run_one()  # the store has it, and the server dies
    again = rig.restart()
    assert again.attach(again.resume("copy"), RecordingSink()).applied == 2


def test_two_who_copy_to_one_name_make_one_copy(rig: DurableRig) -> None:
    ref = rig.open_durable()
    spec = OpenSpec("t", "copy")
    first, second = (rig.catalog.copy(rig.engine, Fork(ref, spec)) for _ in range(2))
    assert rig.until(first)[1].id == "copy"
    assert refusal(rig, second).reason == "SESSION_EXISTS"


def test_an_imported_snapshot_cannot_ask_for_more_than_the_limits(rig: DurableRig) -> None:
    taken = rig.engine._residency.take(rig.open_durable())
    snapshot = encode(replace(taken, idle_ttl_s=1e300))
    for durability in (Durability.NONE, Durability.ASYNC):
        spec = OpenSpec("t", f"copy-{durability.name}", durability)
        view = rig.until(rig.catalog.copy(rig.engine, Import(snapshot, spec)))[1]
        assert view.idle_ttl_s <= 7 * 86_400


def test_a_crafted_generation_harms_nobody() -> None:
    rig = DurableRig(RunningSum(tokens=True))
    ref = rig.open_durable()
    told = rig.generate(ref, [1, 2, 3], max_tokens=3, first_seq=1)
    rig.rest()
    assert told.end is not None
    taken = rig.engine._residency.take(ref)
    run = taken.generation
    assert run is not None
    crafted = replace(run, prompt_tokens=run.prompt_tokens + 2, ids=run.ids[:1])
    crafted = replace(crafted, logprobs=run.logprobs[:1], alternative_ids=run.alternative_ids[:1])
    crafted = replace(crafted, alternative_logprobs=run.alternative_logprobs[:1])
    snapshot = encode(replace(taken, generation=crafted))
    spec = OpenSpec("t", "crafted", Durability.NONE)
    copy = rig.until(rig.catalog.copy(rig.engine, Import(snapshot, spec)))[0]
    again = rig.generate(copy, [1, 2, 3], max_tokens=3, first_seq=1)
    rig.rest()
    assert again.error is not None
    assert again.error.reason == "SEQUENCE_REUSED"
    wide = np.zeros((3, 1000), "<i4")
    bad = replace(run, alternative_ids=wide, alternative_logprobs=wide.astype("<f4"))
    imported = rig.catalog.copy(
        rig.engine, Import(encode(replace(taken, generation=bad)), OpenSpec("t", "wide"))
    )
    assert refusal(rig, imported).reason == "SNAPSHOT_INVALID"


def test_a_generation_waits_until_sync_steps_before_it_were_told(rig: DurableRig) -> None:
    rig = DurableRig(RunningSum(tokens=True))
    sink = RecordingSink()
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, sink)
    row = np.asarray([[1], [2]], "<i4").tobytes()
    rig.engine.submit(StepBlock(sink, [1], [ref], [1], 2, row))
    rig.tick()
    early = rig.generate(ref, [1], max_tokens=1)
    rig.tick()
    assert early.error is not None
    assert early.error.reason == "SESSION_BUSY"
    rig.rest()
    assert [seq for seq, _ in sink.of(1)] == [1, 2]


def test_whoever_binds_while_it_generates_owes_nothing_either(sink: RecordingSink) -> None:
    rig = DurableRig(RunningSum(tokens=True))
    ref = rig.open_durable()
    told = rig.generate(ref, [1, 2], max_tokens=50, first_seq=1)
    rig.tick()
    command = Bind(ref, sink, 1)
    rig.engine.submit(command)
    rig.tick()
    assert not command.reply.done()
    view = rig.until(command.reply)
    assert view.durable >= 2
    rig.rest()
    assert told.end is not None


def test_an_engine_that_ends_leaves_nobody_waiting(rig: DurableRig, sink: RecordingSink) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    command = Bind(ref, sink, 2)
    rig.engine.submit(command)
    rig.tick()
    rig.engine._break("the test has broken it")
    rig.engine._answer_all()
    assert refusal(rig, command.reply).reason == "MODEL_UNHEALTHY"
    rig.store.run()
    assert not rig.store.store.read(KEY).held, "another replica may have it at once"


def test_who_has_bound_a_session_is_known_after_it_was_parked(
    rig: DurableRig, sink: RecordingSink
) -> None:
    ref = rig.open_durable()
    rig.attach(ref, sink, attach_id=5)
    rig.attach(ref, RecordingSink(), 2, attach_id=6)
    rig.now += 61
    for _ in range(4):
        rig.turn()
        rig.now += 0.3
    assert rig.engine._rows.slots.used == 0
    late = Bind(rig.resume(), sink, 1, attach_id=5)
    rig.engine.submit(late)
    assert refusal(rig, late.reply).reason == "SUPERSEDED"
