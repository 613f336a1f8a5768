"""The core with several servers: where sessions are looked for, and how they follow when they move."""

from __future__ import annotations

import pytest

import carousel
from carousel._core.lifecycle import LanePhase
from carousel._error_bases import ServerUnreachableError
from carousel._errors import DrainingError
from carousel.testing.refusals import Refusal
from carousel_protos.v1 import carousel_pb2 as pb

from .cluster import ADDRESSES, Cluster, ranking, session_at
from .miniature import fold, outputs_of

DRAINING = DrainingError("stops")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_session_goes_to_its_owner_and_only_there(cluster: Cluster) -> None:
    lane = cluster.open("s")
    assert cluster.opened == [ranking("s")[0]] == [lane.link.address]
    hello = cluster.sent[0][1].hello
    assert hello.follows_moves
    assert cluster.binds() == [(ranking("s")[0], False)]


def test_one_server_is_not_told_of_moves() -> None:
    cluster = Cluster(known=("a:1",))
    cluster.open("s")
    assert not cluster.sent[0][1].hello.follows_moves


def test_there_is_one_stream_for_all_sessions_of_a_server(cluster: Cluster) -> None:
    lanes = [cluster.open(f"s{n}") for n in range(30)]
    assert sorted(cluster.opened) == list(ADDRESSES)
    assert all(lane.link.address == ranking(lane.session_id)[0] for lane in lanes)


def test_a_batch_is_a_block_for_each_server_and_one_result(cluster: Cluster) -> None:
    lanes = [cluster.open(session_at(address, n)) for n in range(2) for address in ADDRESSES]
    cluster.sent.clear()
    ticket = cluster.submit(lanes, *[[n, n + 1] for n in range(6)])
    assert [kind for address in ADDRESSES for kind in cluster.kinds(address)] == ["block"] * 3
    cluster.run()
    assert ticket in cluster.ended
    for place in range(6):
        assert outputs_of(ticket, place) == fold([place, place + 1])


def test_a_batch_waits_for_a_session_that_moves(cluster: Cluster) -> None:
    lanes = [cluster.open(session_at(address)) for address in ADDRESSES]
    cluster.hand_over(lanes[0].session_id, "b:1")
    ticket = cluster.submit(lanes, [1], [2], [3])
    cluster.run()
    assert [outputs_of(ticket, place) for place in range(3)] == [fold([1]), fold([2]), fold([3])]
    assert lanes[0].link.address == "b:1"


# -- servers that are away


def test_an_open_goes_to_the_next_in_rank_where_the_owner_is_away(cluster: Cluster) -> None:
    first, second, _ = ranking("s")
    cluster.down.add(first)
    lane = cluster.open("s")
    assert cluster.opened == [first, second]
    assert lane.link.address == second
    assert cluster.binds() == [(second, False)], "no server had the session"
    cluster.open(session_at(first))
    assert cluster.opened.count(first) == 1, "it is not tried again at once"


def test_a_server_is_tried_again_after_its_pause(cluster: Cluster) -> None:
    first = ranking("s")[0]
    cluster.down.add(first)
    cluster.open("s")
    cluster.down.clear()
    cluster.now_s += 10.0
    assert cluster.open(session_at(first)).link.address == first


def test_a_binding_fails_once_no_server_can_be_reached(cluster: Cluster) -> None:
    cluster.down.update(ADDRESSES)
    ticket = cluster.bind(pb.OpenSessionRequest(session_id="s"))
    cluster.run()
    assert isinstance(ticket.error, ServerUnreachableError)
    assert sorted(cluster.opened) == list(ADDRESSES), "each was tried once"


def test_a_broken_stream_is_opened_again_first_at_the_same_server(cluster: Cluster) -> None:
    lane, other = cluster.open(session_at("a:1")), cluster.open(session_at("b:1"))
    cluster.opened.clear()
    ticket = cluster.submit([lane], [1, 2])
    cluster.break_("a:1")
    assert other.phase is LanePhase.BOUND, "only the sessions of that server"
    cluster.run()
    assert cluster.opened == ["a:1"]
    assert outputs_of(ticket) == fold([1, 2])
    assert cluster.core.statistics().moves == 0


def test_the_sessions_of_a_killed_server_go_on_at_the_next_in_rank(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    assert cluster.submit([lane], [1, 2])
    cluster.run()
    ticket = cluster.submit([lane], [3])
    cluster.kill("a:1")
    cluster.run()
    assert lane.link.address == ranking(lane.session_id)[1]
    assert outputs_of(ticket) == fold([1, 2, 3])[2:]
    assert cluster.binds()[-1] == (lane.link.address, True)
    assert cluster.core.statistics().replayed_steps_compared >= 2, "R12: nothing was durable"


def test_a_session_without_a_store_waits_for_its_own_server() -> None:
    cluster = Cluster(durability=pb.DURABILITY_NONE)
    lane = cluster.open(session_at("a:1"))
    cluster.down.add("a:1")
    cluster.break_("a:1")
    cluster.run(lambda: cluster.opened.count("a:1") > 3)
    cluster.down.clear()
    cluster.run()
    assert lane.phase is LanePhase.BOUND
    assert {to for to, _ in cluster.binds()} == {"a:1"}


def test_sessions_end_where_no_server_is_found_within_reconnect_s() -> None:
    cluster = Cluster(carousel.RetryPolicy(reconnect_s=5.0))
    lane = cluster.open("s")
    ticket = cluster.submit([lane], [1])
    cluster.down.update(ADDRESSES)
    cluster.break_(lane.link.address)
    cluster.run()
    assert isinstance(ticket.error, carousel.ConnectionLostError)
    assert 5.0 <= cluster.now_s < 7.0
    assert len(cluster.opened) < 60, "the tries have pauses"


def test_no_other_server_is_tried_where_nothing_is_tried_again() -> None:
    cluster = Cluster(carousel.RetryPolicy(attempts=1))
    cluster.down.add(ranking("s")[0])
    ticket = cluster.bind(pb.OpenSessionRequest(session_id="s"))
    cluster.run()
    assert isinstance(ticket.error, ServerUnreachableError)
    assert len(cluster.opened) == 1


def test_the_end_of_one_session_sends_no_steps_of_another_on_a_stream_that_is_lost() -> None:
    cluster = Cluster(carousel.RetryPolicy(attempts=1))
    lanes = [cluster.open(session_at("a:1", n)) for n in range(3)]
    ticket = cluster.submit(lanes, *[list(range(20))] * 3)
    cluster.streams.pop("a:1").end()
    effects = cluster.core.broken("a:1", carousel.ConnectionLostError("reset"), 0.0)
    assert effects.send == {}
    assert effects.ended == [ticket]
    assert len(ticket.errors) == 3


def test_an_error_that_cannot_pass_is_not_carried_to_other_servers(cluster: Cluster) -> None:
    lane = cluster.open("s")
    cluster.break_(lane.link.address, carousel.TokenInvalidError("unknown"))
    assert lane.gone
    assert len(cluster.opened) == 1


# -- Moved


def test_a_session_follows_where_its_server_says(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    done = cluster.submit([lane], [1, 2])
    cluster.run()
    cluster.hand_over(lane.session_id, "c:1")
    ticket = cluster.submit([lane], [3, 4])
    cluster.run()
    assert outputs_of(done) + outputs_of(ticket) == fold([1, 2, 3, 4])
    assert (lane.link.address, lane.phase) == ("c:1", LanePhase.BOUND)
    assert cluster.binds()[-1] == ("c:1", False)
    assert lane.handle not in cluster.core._links.of("a:1").lanes
    statistics = cluster.core.statistics()
    assert (statistics.moves, statistics.redirects) == (1, 0)
    assert statistics.move_pauses_s == (0.0,), "no time has passed in this world"


def test_without_an_address_the_next_in_rank_has_it(cluster: Cluster) -> None:
    lane = cluster.open("s")
    cluster.hand_over("s")
    cluster.run()
    assert lane.link.address == ranking("s")[1]


def test_the_pause_of_a_move_counts_until_the_session_is_bound(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    for _ in range(2):
        cluster.refuse("b:1", "Bind", "SESSION_PARKED")
    cluster.hand_over(lane.session_id, "b:1")
    cluster.run()
    assert lane.link.address == "b:1"
    (pause_s,) = cluster.core.statistics().move_pauses_s
    assert 0.15 <= pause_s <= 0.25, "two pauses of the policy, with jitter"
    cluster.break_("b:1")
    cluster.run()
    assert len(cluster.core.statistics().move_pauses_s) == 1, "that was no move"


def test_a_move_to_a_server_that_is_not_known_is_followed_and_the_stream_ends_after_it(
    cluster: Cluster,
) -> None:
    cluster.servers["new:1"] = server = type(cluster.servers["a:1"])(
        address="new:1", beside=cluster.servers["a:1"]
    )
    lane = cluster.open(session_at("a:1"))
    cluster.hand_over(lane.session_id, server.address)
    cluster.run()
    assert lane.link.address == "new:1"
    cluster.hand_over(lane.session_id, "b:1")
    cluster.run()
    assert lane.link.address == "b:1"
    assert cluster.left == ["new:1"], "no session needs it, and it is not of the target"


@pytest.mark.parametrize(
    "address", ["unix:/tmp/x", "xds:///x", "dns:///b:1", "b", "b:1,c:1", "b:1/x"]
)
def test_only_host_and_port_are_taken_from_a_server(cluster: Cluster, address: str) -> None:
    lane = cluster.open("s")
    cluster.hand_over("s", address)
    cluster.run()
    assert lane.link.address == ranking("s")[1]
    assert set(cluster.opened) <= set(ADDRESSES)


def test_a_move_to_a_server_that_cannot_be_reached_falls_back_to_the_ranking(
    cluster: Cluster,
) -> None:
    lane = cluster.open("s")
    cluster.down.add("gone:1")
    cluster.hand_over("s", "gone:1")
    ticket = cluster.submit([lane], [1])
    cluster.run()
    assert outputs_of(ticket) == fold([1])
    assert cluster.binds()[-1] == (ranking("s")[0], True)


def test_late_messages_of_the_former_server_are_nothing_to_a_session_that_moved(
    cluster: Cluster,
) -> None:
    lane = cluster.open(session_at("a:1"))
    cluster.hand_over(lane.session_id, "b:1")
    cluster.run()
    late = pb.BlockResult(handles=[lane.handle], first_seqs=[7], steps=1, outputs=bytes(8))
    moved = pb.Moved(handle=lane.handle, address="c:1")
    for message in (
        pb.AttachResponse(outputs=late),
        pb.AttachResponse(moved=moved),
        pb.AttachResponse(durable=pb.Durable(handles=[lane.handle], durables=[9])),
        pb.AttachResponse(unbound=pb.Unbound(handle=lane.handle)),
    ):
        cluster.do(cluster.core.receive("a:1", message, cluster.now_s))
    assert (lane.link.address, lane.phase) == ("b:1", LanePhase.BOUND)
    assert (lane.cursors.received, lane.cursors.durable) == (0, 0)


def test_a_late_bound_of_the_former_server_is_given_back(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    cluster.hand_over(lane.session_id, "b:1")
    cluster.run()
    bound = pb.Bound(handle=lane.handle, session=pb.Session(id=lane.session_id))
    effects = cluster.core.receive("a:1", pb.AttachResponse(bound=bound), cluster.now_s)
    assert [one.WhichOneof("event") for one in effects.send["a:1"]] == ["unbind"]


def test_a_session_that_is_given_back_while_it_moves_is_closed_where_it_is(
    cluster: Cluster,
) -> None:
    lane = cluster.open(session_at("a:1"))
    cluster.submit([lane], [1])
    cluster.hand_over(lane.session_id, "b:1")
    ticket, effects = cluster.core.unbind(lane, close=True)
    cluster.do(effects)
    cluster.run()
    assert ticket in cluster.ended
    assert lane.session_id not in cluster.all.by_id


# -- SESSION_HELD


def test_a_refusal_that_names_the_owner_is_followed(cluster: Cluster) -> None:
    other = Cluster()
    other.all, other.servers = cluster.all, cluster.servers
    lane = cluster.open(session_at("a:1"))
    cluster.hand_over(lane.session_id, "c:1")
    cluster.run()
    ticket = other.bind(lane.session_id)
    other.run()
    assert ticket.error is None
    assert other.binds() == [("a:1", False), ("c:1", False)]
    assert other.core.statistics().redirects == 1
    assert ticket.lane.link.address == "c:1", "it is remembered"


def test_a_server_that_lost_a_session_says_who_has_it(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    session = cluster.all.get(lane.session_id)
    session.commit()
    session.holder = ""
    cluster.streams["a:1"].unbind(session, Refusal("LEASE_LOST", owner="c:1"))
    cluster.run()
    assert lane.link.address == "c:1"
    assert cluster.binds()[-1] == ("c:1", False)
    assert cluster.core.statistics().redirects == 1


def test_an_owner_that_cannot_be_reached_has_its_session_taken_over(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    cluster.submit([lane], [1])
    cluster.hand_over(lane.session_id, "c:1")
    cluster.run()
    other = Cluster()
    other.all, other.servers = cluster.all, cluster.servers
    other.down.add("c:1")
    ticket = other.bind(lane.session_id)
    other.run()
    assert ticket.error is None
    assert other.binds() == [("a:1", False), ("a:1", True)]
    assert other.opened == ["a:1", "c:1"]


def test_servers_that_contradict_each_other_are_asked_with_pauses() -> None:
    cluster = Cluster(carousel.RetryPolicy(reconnect_s=5.0))
    for _ in range(500):
        cluster.refuse("a:1", "Bind", "SESSION_HELD", owner="b:1")
        cluster.refuse("b:1", "Bind", "SESSION_HELD", owner="a:1")
    ticket = cluster.bind(session_at("a:1"))
    cluster.run()
    assert ticket.error is not None
    assert ticket.error.reason == "SESSION_HELD"
    assert len(cluster.binds()) < 30


def test_a_client_of_one_server_does_not_follow() -> None:
    cluster = Cluster(known=("a:1",))
    cluster.refuse("a:1", "Bind", "SESSION_HELD", owner="b:1")
    ticket = cluster.bind("s")
    cluster.run()
    assert ticket.error is not None
    assert ticket.error.metadata["owner"] == "b:1"
    assert cluster.opened == ["a:1"]


# -- refusals and drains


@pytest.mark.parametrize("reason", ["DRAINING", "SLAB_FULL", "STORE_UNAVAILABLE"])
def test_a_server_that_takes_nothing_now_is_passed_over(cluster: Cluster, reason: str) -> None:
    first, second, _ = ranking("s")
    cluster.refuse(first, "Bind", reason)
    assert cluster.open("s").link.address == second


def test_a_refusal_of_all_servers_is_the_callers(cluster: Cluster) -> None:
    for address in ADDRESSES:
        cluster.refuse(address, "Bind", "SLAB_FULL")
    ticket = cluster.bind(pb.OpenSessionRequest(session_id="s"))
    cluster.run()
    assert ticket.error is not None
    assert ticket.error.reason == "SLAB_FULL"
    assert len(cluster.binds()) == 3


def test_the_sessions_of_a_server_that_stops_are_bound_elsewhere(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    cluster.streams["a:1"].send(drain=pb.Drain())
    cluster.run()
    assert lane.phase is LanePhase.BOUND, "it stays until it is handed over"
    ticket = cluster.submit([lane], [1, 2])
    cluster.run()
    assert outputs_of(ticket) == fold([1, 2]), "a server that drains runs steps until then"
    assert cluster.open(session_at("a:1", 1)).link.address != "a:1"
    cluster.all.crash("a:1")
    cluster.break_("a:1", DRAINING)
    cluster.run()
    assert lane.link.address == ranking(lane.session_id)[1]
    assert cluster.binds()[-1] == (lane.link.address, False)


@pytest.mark.parametrize("reason", ["DRAINING", "QUEUE_FULL"])
def test_a_session_whose_steps_a_draining_server_refuses_leaves_it(
    cluster: Cluster, reason: str
) -> None:
    lane = cluster.open(session_at("a:1"))
    cluster.streams["a:1"].send(drain=pb.Drain())
    cluster.refuse("a:1", "Step", reason)
    ticket = cluster.submit([lane], [1])
    cluster.run()
    assert outputs_of(ticket) == fold([1])
    assert lane.link.address == ranking(lane.session_id)[1]
    assert cluster.now_s < 1.0
    assert "a:1" in cluster.streams, "that one has not ended"


def test_a_session_that_a_server_gives_up_is_bound_elsewhere_at_once(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    session = cluster.all.get(lane.session_id)
    session.commit()
    cluster.streams["a:1"].unbind(session, Refusal("DRAINING"))
    session.holder = ""
    cluster.run()
    assert lane.link.address == ranking(lane.session_id)[1]
    assert cluster.now_s == 0.0


# -- servers come and go


def test_new_servers_get_new_sessions_and_old_ones_stay(cluster: Cluster) -> None:
    cluster.servers["new:1"] = type(cluster.servers["a:1"])(
        address="new:1", beside=cluster.servers["a:1"]
    )
    lanes = [cluster.open(f"s{n}") for n in range(10)]
    before = [lane.link.address for lane in lanes]
    cluster.addresses.replace((*ADDRESSES[1:], "new:1"))
    cluster.do(cluster.core.tidy())
    assert [lane.link.address for lane in lanes] == before, "their stream works"
    assert {cluster.open(f"t{n}").link.address for n in range(20)} == {*ADDRESSES[1:], "new:1"}


def test_the_stream_to_a_server_that_is_gone_ends_with_its_last_session(cluster: Cluster) -> None:
    lane = cluster.open(session_at("a:1"))
    cluster.addresses.replace(ADDRESSES[1:])
    cluster.do(cluster.core.tidy())
    assert cluster.left == []
    cluster.do(cluster.core.unbind(lane, close=True)[1])
    cluster.run()
    cluster.do(cluster.core.tidy())
    assert cluster.left == ["a:1"]
