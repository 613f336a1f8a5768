"""The client's half of exactly-once, rule by rule: what it does when a stream or a server is gone."""

from __future__ import annotations

import pytest

import carousel
from carousel._core.retry import RetryPolicy
from carousel.testing.refusals import Refusal
from carousel_protos.v1 import carousel_pb2 as pb

from .miniature import (
    HOST,
    MiniServer,
    World,
    compute_otherwise,
    fold,
    inputs_of,
    outputs_of,
    roll_back_store,
)

XS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


def all_fed(world: World, session_id: str = "s") -> list[int]:
    return inputs_of(world.server.sessions[session_id])


@pytest.mark.parametrize("durability", [pb.DURABILITY_NONE, *pb.Durability.values()[2:4]])
@pytest.mark.parametrize("delivered", range(9))
def test_a_break_anywhere_is_not_seen(durability: int, delivered: int) -> None:
    world = World(MiniServer(durability))
    lane = world.open()
    ticket = world.submit(lane, XS)
    world.server.commit()
    world.deliver(delivered)
    assert HOST in world.break_().connect
    world.resume()
    while ticket not in world.ended:
        world.server.commit()
        world.deliver()
    assert ticket.error is None
    assert outputs_of(ticket) == fold(XS)
    assert all_fed(world) == XS
    assert world.core.statistics().reconnects == 1


@pytest.mark.parametrize("committed", range(8))
@pytest.mark.parametrize("delivered", range(9))
def test_a_crash_anywhere_is_not_seen_either(committed: int, delivered: int) -> None:
    world = World()
    lane = world.open()
    tickets = [world.submit(lane, [x]) for x in XS]
    for _ in range(committed):
        world.deliver(1)
    world.server.commit()
    world.deliver(delivered)
    world.crash()
    world.resume()
    while tickets[-1] not in world.ended:
        world.server.commit()
        world.deliver()
    assert [outputs_of(ticket)[0] for ticket in tickets] == fold(XS)
    assert all_fed(world) == XS


def test_r8_what_is_said_on_a_bound_and_in_which_order() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    world.server.commit()
    world.deliver()
    ticket = world.submit(lane, XS[3:])  # half a window of it is sent, twice
    world.deliver(2)  # outputs 4 and 5 have come, 6 … have not
    assert lane.cursors.received == 5
    world.server.commit()
    world.crash()
    world.kinds()
    sent_before = lane.cursors.sent
    world.connect()
    world.deliver(2)  # Welcome and Bound
    kinds = world.kinds()
    assert kinds[:4] == ["hello", "bind", "acks", "replay"]
    assert set(kinds[4:]) <= {"block"}
    assert lane.cursors.sent >= sent_before
    assert lane.cursors.durable == world.server.sessions["s"].durable
    world.deliver()
    while ticket not in world.ended:
        world.server.commit()
        world.deliver()
    assert outputs_of(ticket) == fold(XS)[3:]


def test_acks_never_go_beyond_what_this_activation_has_told() -> None:
    world = World()  # whose server asserts it
    lane = world.open()
    world.submit(lane, XS[:7])
    world.deliver()
    assert (lane.cursors.received, lane.cursors.durable) == (7, 0)
    world.crash()
    world.connect()
    world.deliver(2)
    assert (lane.cursors.heard, lane.cursors.ackable, lane.cursors.received) == (0, 0, 7)
    world.deliver(3)
    assert lane.cursors.ackable == 3
    world.deliver()
    assert (lane.cursors.heard, lane.cursors.ackable) == (None, 7)
    assert world.core.statistics().replayed_steps_compared == 7


def test_what_waits_is_sent_once_the_window_opens_again() -> None:
    world = World()
    lane = world.open()
    first = world.submit(lane, XS[:8])
    world.deliver()
    behind = world.submit(lane, XS[8:])
    assert lane.cursors.sent == 8  # nothing is durable: the window is full
    world.crash()
    world.resume()
    assert first in world.ended
    assert lane.cursors.sent == 8
    world.server.commit()
    world.deliver()
    world.server.commit()
    world.deliver()
    assert outputs_of(behind) == fold(XS)[8:]


def test_r9_a_store_that_went_back_is_named() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:4])
    world.deliver()
    world.server.commit()
    world.deliver()
    assert not lane.log.inputs
    other = world.open("other")
    waiting = world.submit(lane, XS[4:6])
    roll_back_store(world.server.sessions["s"], applied=2)
    world.crash()
    world.resume()
    assert isinstance(waiting.error, carousel.DataLossError)
    assert "step 2" in str(waiting.error)
    with pytest.raises(carousel.DataLossError):
        world.submit(lane, [1])
    assert other.phase.name == "BOUND"
    assert world.server.sessions["s"].owner is None  # the handle was given back


def test_r9_also_where_a_gap_is_the_first_that_shows_it() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:4])
    world.deliver()
    world.server.commit()
    world.deliver()
    world.server.sessions["s"].applied = 2  # parked, and back from a store that went backwards
    waiting = world.submit(lane, XS[4:6])
    world.deliver()
    world.deliver()
    world.break_()
    world.resume()
    assert isinstance(waiting.error, carousel.DataLossError)
    assert "step 2" in str(waiting.error)


@pytest.mark.parametrize("durability", [pb.DURABILITY_NONE, pb.DURABILITY_ASYNC])
def test_a_session_that_is_not_there_any_more_is_lost_data(durability: int) -> None:
    world = World(MiniServer(durability))
    lane = world.open()
    waiting = world.submit(lane, XS)
    world.server.sessions.clear()
    world.break_()
    world.resume()
    assert isinstance(waiting.error, carousel.DataLossError)
    assert ("durability none" in str(waiting.error)) == (durability == pb.DURABILITY_NONE)


def test_another_session_of_the_same_name_is_not_gone_on_with() -> None:
    world = World(MiniServer(pb.DURABILITY_NONE))
    lane = world.open()
    lane.facts.identity = (8, 0.0)
    world.break_()
    world.resume()
    assert isinstance(lane.error, carousel.DataLossError)


def test_steps_of_somebody_else_are_named() -> None:
    world = World()
    lane = world.open()
    world.break_()
    session = world.server.sessions["s"]
    session.applied = 5
    world.resume()
    assert isinstance(lane.error, carousel.SupersededError)
    assert isinstance(lane.error, carousel.ConflictError)


@pytest.mark.parametrize(("spoils", "tolerant"), [(False, False), (True, False), (True, True)])
def test_r12_what_comes_again_is_compared(spoils: bool, tolerant: bool) -> None:
    world = World()
    lane = world.open()
    lane.alike = (lambda _a, _b: True) if tolerant else None
    told = world.submit(lane, XS[:3])
    world.deliver()
    waiting = world.submit(lane, XS[3:5])
    session = world.server.sessions["s"]
    if spoils:
        compute_otherwise(session)
    world.crash()
    world.resume()
    statistics = world.core.statistics()
    assert outputs_of(told) == fold(XS)[:3]
    if spoils and not tolerant:
        assert isinstance(waiting.error, carousel.ReplayDivergedError)
        assert "'fake'" in str(waiting.error)
        assert "'cuda'" in str(waiting.error)
        assert waiting.error.seq == statistics.replayed_steps_compared == 1
        assert statistics.replays_diverged == 1
    else:
        assert waiting.error is None
        assert statistics.replayed_steps_compared == 3


def test_r12_also_of_steps_that_were_durable_until_the_store_went_backwards() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:6])
    world.deliver()
    assert world.stream is not None
    world.stream.send(durable=pb.Durable(handles=[lane.handle], durables=[3]))
    world.deliver()
    waiting = world.submit(lane, XS[6:8])
    session = world.server.sessions["s"]
    compute_otherwise(session)
    roll_back_store(session)
    world.crash()
    world.resume()
    assert isinstance(waiting.error, carousel.ReplayDivergedError)
    assert waiting.error.seq == 1


def test_r13_the_epoch_is_carried_and_never_falls() -> None:
    world = World()
    lane = world.open()
    world.crash()
    world.resume()
    assert lane.facts.epoch == 2
    world.crash()
    world.sent.clear()
    world.connect()
    assert world.sent[1].bind.epoch_floor == 2
    assert world.stream is not None
    world.stream.out[-1].bound.session.epoch = 1
    with pytest.raises(carousel.ProtocolViolationError, match="epoch"):
        world.deliver()


def test_r10_each_bind_beats_its_own_past_and_no_later_attachment() -> None:
    world = World()
    other = World(world.server)
    lane = world.open()
    first = lane.attach_id
    world.break_()
    world.resume()
    assert lane.attach_id == first + 1
    world.break_()
    taken = other.bind("s").lane  # its clock is behind: it is told, and tries again above
    assert taken.phase.name == "BOUND"
    assert taken.attach_id >> 16 > lane.attach_id >> 16
    world.resume()
    assert isinstance(lane.error, carousel.SupersededError)
    assert taken.error is None


def test_the_same_core_binds_a_session_twice_and_the_newest_wins() -> None:
    world = World()
    lane, again = world.open(), world.bind("s").lane
    assert isinstance(lane.error, carousel.SupersededError)
    assert again.phase.name == "BOUND"


@pytest.mark.parametrize(
    "reason", ["DRAINING", "STORE_UNAVAILABLE", "SESSION_HELD", "LEASE_LOST", "QUEUE_FULL"]
)
def test_refusals_that_a_durable_session_outlives_are_not_told(reason: str) -> None:
    world = World()
    lane = world.open()
    world.server.refuse_steps.append(Refusal(reason, retry_after_s=2.0))
    ticket = world.submit(lane, XS[:5])
    world.deliver()
    assert lane.phase.name == "HELD"
    assert 2.0 <= world.core.next_due_s <= 3.0  # type: ignore[operator]
    world.wait_until_due()
    world.deliver()
    assert outputs_of(ticket) == fold(XS)[:5]
    assert ticket.error is None


@pytest.mark.parametrize("durability", [pb.DURABILITY_ASYNC, pb.DURABILITY_NONE])
def test_a_refused_replay_fails_no_step(durability: int) -> None:
    """The steps have run, and only their outputs were missed."""
    world = World(MiniServer(durability))
    lane = world.open()
    ticket = world.submit(lane, [1, 2])
    world.break_()
    world.connect()
    assert world.stream is not None
    world.deliver(2)  # Welcome and Bound; what was asked for again is on its way
    world.stream.out.clear()
    world.stream.refuse(lane.handle, Refusal("QUEUE_FULL", retry_after_s=0.1))
    world.deliver()
    assert lane.phase.name == "HELD"
    world.wait_until_due()
    world.deliver()
    assert outputs_of(ticket) == fold([1, 2])
    assert lane.error is None


@pytest.mark.parametrize("reason", ["DRAINING", "QUEUE_FULL"])
@pytest.mark.parametrize("durability", [pb.DURABILITY_ASYNC, pb.DURABILITY_NONE])
def test_a_passing_refusal_that_names_no_session_breaks_the_stream(
    reason: str, durability: int
) -> None:
    world = World(MiniServer(durability))
    first, second = world.open("a"), world.open("b")
    tickets = [world.submit(first, [1, 2]), world.submit(second, [3])]
    assert world.stream is not None
    world.stream.out.clear()
    world.stream.refuse(0, Refusal(reason, retry_after_s=0.5))
    with pytest.raises(carousel.RefusedError) as caught:
        world.deliver()
    effects = world.break_(caught.value)
    assert HOST in effects.connect
    assert effects.connect[HOST] >= 0.5, "the server's hint"
    assert not any(ticket in effects.ended for ticket in tickets)
    world.resume()
    assert [outputs_of(ticket) for ticket in tickets] == [fold([1, 2]), fold([3])]


@pytest.mark.parametrize("reason", ["FIELD_INVALID", "MALFORMED_MESSAGE"])
def test_one_that_cannot_pass_is_a_violation(reason: str) -> None:
    world = World()
    lane = world.open()
    assert world.stream is not None
    world.stream.refuse(0, Refusal(reason))
    with pytest.raises(carousel.ProtocolViolationError, match="could not read a message") as caught:
        world.deliver()
    world.break_(caught.value)
    assert lane.error is caught.value


def test_that_a_handle_is_not_bound_is_no_news_where_none_is_named() -> None:
    world = World()
    lane = world.open()
    assert world.stream is not None
    world.stream.refuse(0, Refusal("HANDLE_NOT_BOUND"))
    world.deliver()
    assert outputs_of(world.submit(lane, [1])) == [[0, 0]]
    world.deliver()
    assert lane.error is None


def test_without_durability_they_are() -> None:
    world = World(MiniServer(pb.DURABILITY_NONE))
    lane = world.open()
    world.server.refuse_steps.append(Refusal("DRAINING"))
    ticket = world.submit(lane, XS[:2])
    world.deliver()
    assert isinstance(ticket.error, carousel.DrainingError)


@pytest.mark.parametrize("reason", ["DRAINING", "LEASE_LOST"])
def test_a_session_that_is_taken_away_for_a_while_is_bound_again(reason: str) -> None:
    world = World()
    lane = world.open()
    ticket = world.submit(lane, XS[:5])
    assert world.stream is not None
    world.stream.unbind(world.server.sessions["s"], Refusal(reason))
    world.server.refuse_binds.extend([Refusal("SESSION_HELD"), Refusal("STORE_UNAVAILABLE")])
    world.deliver()
    for _ in range(3):
        world.wait_until_due()
        world.deliver()
    assert lane.phase.name == "BOUND"
    assert outputs_of(ticket) == fold(XS)[:5]
    assert world.core.next_due_s is None


def test_patience_ends_with_the_servers_own_word() -> None:
    world = World(policy=RetryPolicy(reconnect_s=5.0))
    lane = world.open()
    waiting = world.submit(lane, XS)
    assert world.stream is not None
    world.stream.unbind(world.server.sessions["s"], Refusal("LEASE_LOST"))
    world.server.refuse_binds.extend([Refusal("SESSION_HELD")] * 1_000)
    world.deliver()
    while waiting not in world.ended:
        world.wait_until_due()
        world.deliver()
    assert isinstance(waiting.error, carousel.SessionHeldError)
    assert world.now_s == 5.0


def test_patience_with_a_server_that_is_gone_ends_with_a_lost_connection() -> None:
    world = World(policy=RetryPolicy(reconnect_s=5.0))
    waiting = world.submit(world.open(), XS)
    world.break_()
    tries = 0
    while world.reconnect_in_s is not None and waiting not in world.ended:
        tries += 1
        world.now_s += world.reconnect_in_s
        world.reconnect_in_s = None
        world.connect()
        world.break_(carousel.ServerUnreachableError("refused"))
    assert isinstance(waiting.error, carousel.ConnectionLostError)
    assert "reconnect_s=5 s" in str(waiting.error)
    assert 5 < tries < 20
    _, effects = world.core.bind("s")
    assert effects.connect[HOST] == 0.0  # and it may begin anew


@pytest.mark.parametrize("error", [carousel.TokenInvalidError("no"), carousel.InternalError("bug")])
def test_what_does_not_pass_is_not_waited_out(error: carousel.CarouselError) -> None:
    world = World()
    waiting = world.submit(world.open(), XS)
    assert not world.break_(error).connect
    assert waiting.error is error


def test_a_server_that_was_never_there_is_told_at_once() -> None:
    world = World()
    ticket = world.bind("s", deliver=False)
    world.break_(carousel.ServerUnreachableError("refused"))
    assert isinstance(ticket.error, carousel.ServerUnreachableError)


def test_an_opening_that_was_cut_off_is_repeated() -> None:
    world = World()
    world.open("first")
    ticket = world.bind(pb.OpenSessionRequest(session_id="s"), deliver=False)
    world.break_()
    assert ticket not in world.ended
    world.resume()
    assert ticket in world.ended
    assert ticket.error is None


def test_a_drain_stops_new_steps_and_the_next_stream_goes_on() -> None:
    world = World()
    lane = world.open()
    before = world.submit(lane, XS[:2])
    assert world.stream is not None
    world.stream.out.appendleft(pb.AttachResponse(drain=pb.Drain()))
    world.deliver(1)
    world.kinds()
    behind = world.submit(lane, XS[2:5])
    world.server.refuse_binds.append(Refusal("DRAINING"))
    late = world.bind("s2", deliver=False)
    world.deliver()
    assert before in world.ended
    assert "block" not in world.kinds()
    world.server.refuse_binds.clear()
    world.server.commit()
    world.server.crash()
    world.break_(carousel.DrainingError("the server is shutting down", retry_after_s=1.0))
    assert 1.0 <= world.reconnect_in_s <= 1.5  # type: ignore[operator]
    world.server.all.open(pb.OpenSessionRequest(session_id="s2"))
    world.resume()
    assert outputs_of(behind) == fold(XS)[2:5]
    assert late.error is None
    assert world.core.statistics().drains == 1


def test_batches_over_several_sessions_survive_as_one() -> None:
    world = World()
    lanes = [world.open(f"s{i}") for i in range(3)]
    rows = [[x + i for x in XS] for i in range(3)]
    ticket = world.submit(lanes, *rows)
    for round_ in range(8):
        world.deliver(2)
        world.server.commit("s1" if round_ % 2 else "s2")
        world.crash()
        world.resume()
    while ticket not in world.ended:
        world.server.commit()
        world.deliver()
    assert ticket.error is None
    for place, row in enumerate(rows):
        assert outputs_of(ticket, place) == fold(row)
        assert all_fed(world, f"s{place}") == row


# -- giving back


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_close_survives_a_break(at: str) -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    if at == "before":
        world.break_()
    done, effects = world.core.unbind(lane, close=True)
    world.do(effects)
    if at == "after":
        world.break_()
    assert done not in world.ended
    world.resume()  # the session is there still, or was closed and only the answer was lost
    assert done in world.ended
    assert done is not None
    assert done.error is None
    assert world.server.sessions == {}


def test_a_detach_waits_until_what_was_told_is_durable() -> None:
    world = World()
    lane = world.open()
    ticket = world.submit(lane, XS[:3])
    world.deliver()
    done, effects = world.core.unbind(lane, close=False)
    world.do(effects)
    assert ticket in world.ended
    world.deliver()
    assert done not in world.ended
    world.crash()  # undoes all three steps
    world.resume()
    assert done not in world.ended
    world.server.commit()
    world.deliver()
    assert done in world.ended
    assert world.server.sessions["s"].durable == 3
    assert world.server.sessions["s"].owner is None


def test_a_detach_tells_what_became_of_steps_that_were_not_durable() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    done, effects = world.core.unbind(lane, close=False)
    world.do(effects)
    world.server.sessions.clear()
    world.crash()
    world.resume()
    assert done in world.ended
    assert isinstance(done.error, carousel.DataLossError)


@pytest.mark.parametrize("waits", [False, True])
def test_a_detach_tells_also_what_came_before_it_unless_somebody_was_told(waits: bool) -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    world.server.sessions.clear()
    world.crash()
    waiting = world.submit(lane, XS[3:4]) if waits else None
    world.resume()
    assert lane.phase.name == ("GONE" if waits else "UNDONE")
    done, effects = world.core.unbind(lane, close=False)
    world.do(effects)
    assert lane.phase.name == "GONE"
    if waiting is not None:
        assert isinstance(waiting.error, carousel.DataLossError)
        assert done is None
        return
    assert done in world.ended
    assert isinstance(done.error, carousel.DataLossError)
    assert world.core.unbind(lane, close=False)[0] is None, "it was told twice"


def test_a_close_does_not_care() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    world.crash()
    done, effects = world.core.unbind(lane, close=True)
    world.do(effects)
    world.server.sessions.clear()
    world.resume()
    assert done in world.ended
    assert done.error is None


def test_a_detach_while_broken_owes_nothing_if_all_is_durable() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    world.server.commit()
    world.deliver()
    world.break_()
    done, effects = world.core.unbind(lane, close=False)
    world.do(effects)
    assert done in world.ended


def test_a_connection_that_nobody_needs_is_not_mended() -> None:
    world = World()
    lane = world.open()
    world.do(world.core.unbind(lane, close=True)[1])
    world.deliver()
    assert not world.break_().connect
    ticket, effects = world.core.bind(pb.OpenSessionRequest(session_id="t"))
    assert effects.connect[HOST] == 0.0
    world.do(effects)
    world.resume()
    assert ticket in world.ended


# -- outputs that nobody had read


def test_outputs_from_before_are_asked_for_again_after_a_break() -> None:
    first = World(MiniServer(pb.DURABILITY_NONE))
    first.submit(first.open(), XS[:4])
    first.break_()
    world = World(first.server)
    lane = world.bind("s").lane
    assert lane.cursors.unread == 4
    world.break_()
    world.resume()
    assert lane.cursors.unread == 4  # nothing was acknowledged on the way
    world.checked = False  # those inputs are nobody's here
    ticket, effects = world.core.replay(lane, 8)
    world.do(effects)
    world.deliver(1)
    world.break_()
    world.resume()
    assert ticket in world.ended
    assert outputs_of(ticket) == fold(XS)[:4]  # type: ignore[arg-type]


# -- generations


def test_a_generation_is_named_by_its_first_step_and_moves_the_cursors() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    assert world.core.generation_begins(lane) == 0  # three steps are on their way
    world.do(world.core.generated(lane, None))
    world.deliver()
    assert world.core.generation_begins(lane) == 4
    world.break_()
    session = world.server.sessions["s"]
    session.applied = session.ack = 40  # the generation went on meanwhile
    session.commit()
    world.resume()
    assert lane.error is None
    world.do(world.core.generated(lane, 40))
    assert (lane.cursors.received, lane.cursors.next_seq) == (40, 41)


def test_steps_before_a_generation_are_sent_again_after_a_crash() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    assert world.core.generation_begins(lane) == 4
    world.crash()
    world.resume()
    assert world.server.sessions["s"].applied == 3


@pytest.mark.parametrize("lost", [False, True])
def test_a_generation_that_was_left_is_followed_where_the_server_stands(lost: bool) -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    world.core.generation_begins(lane)
    session = world.server.sessions["s"]
    if lost:
        world.crash()  # nothing was durable: the steps before it are owed again
    else:
        session.applied = session.ack = 10
    world.do(world.core.generated(lane, None))
    if lost:
        world.connect()
    world.deliver()
    assert lane.cursors.sent == session.applied == (3 if lost else 10)
    assert world.core.generation_begins(lane) == lane.cursors.sent + 1


def test_a_generation_right_after_one_that_was_left_names_no_first_step() -> None:
    """Nothing has come that says how far the server went, so every number would be a guess."""
    world = World()
    lane = world.open()
    world.core.generation_begins(lane)
    session = world.server.sessions["s"]
    session.applied = session.ack = 10
    world.do(world.core.generated(lane, None))
    assert world.core.generation_begins(lane) == 0
    world.deliver()
    world.do(world.core.generated(lane, 15))
    assert world.core.generation_begins(lane) == 16


def test_a_generation_beside_one_that_is_not_known_to_have_ended_names_no_first_step() -> None:
    """An event loop tells of a generation that was dropped only later."""
    world = World()
    lane = world.open()
    assert world.core.generation_begins(lane) == 1
    assert world.core.generation_begins(lane) == 0
    session = world.server.sessions["s"]
    session.applied = session.ack = 10
    world.do(world.core.generated(lane, 10))
    world.do(world.core.generated(lane, None))
    world.deliver()
    assert world.core.generation_begins(lane) == 11


def test_messages_that_cross_a_fence_harm_nothing() -> None:
    world = World()
    lane = world.open()
    assert world.stream is not None
    world.stream.unbind(world.server.sessions["s"], Refusal("LEASE_LOST"))
    ticket = world.submit(lane, XS[:3])  # sent before that is known, so it is refused
    done, effects = world.core.unbind(lane, close=True)
    world.do(effects)
    world.deliver()
    assert isinstance(ticket.error, carousel.SessionClosedError)
    world.wait_until_due()
    world.deliver()
    assert done in world.ended
    assert world.server.sessions == {}


def test_what_a_failed_message_has_ended_is_not_lost_with_a_confirmation() -> None:
    world = World(MiniServer(pb.DURABILITY_NONE))
    lane = world.open()
    world.server.refuse_steps.append(Refusal("QUEUE_FULL"))
    ticket = world.submit(lane, [1])
    assert world.stream is not None
    (refused,) = world.stream.out
    refused.failure.handles.extend([lane.handle, 0])
    refused.failure.seqs.extend([1, 0])
    with pytest.raises(carousel.QueueFullError):  # the second part names no session
        world.core.receive(HOST, refused, world.now_s)
    assert ticket not in world.do(world.core.taken(lane, 0)).ended
    world.break_()
    assert world.ended.count(ticket) == 1
