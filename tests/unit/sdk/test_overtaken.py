"""A generation that ends while the session is on its way to a new stream: two connections, no order."""

from __future__ import annotations

import pytest

from carousel._core.lifecycle import LanePhase
from carousel_protos.v1 import carousel_pb2 as pb

from .miniature import MiniServer, World


@pytest.mark.parametrize("durability", [pb.DURABILITY_NONE, *pb.Durability.values()[2:4]])
def test_a_bound_from_before_the_end_of_a_generation_is_no_loss(durability: int) -> None:
    """The Bind was answered at step 0, the generation went on to step 20, and its end came first."""
    world = World(MiniServer(durability))
    lane = world.open()
    assert world.core.generation_begins(lane) == 1
    world.break_()
    world.connect()
    world.server.sessions["s"].applied = 20
    world.server.sessions["s"].ack = 20
    world.server.commit()
    world.kinds()
    world.do(world.core.generated(lane, 20))
    world.deliver()
    assert lane.error is None
    assert lane.phase is LanePhase.BOUND
    assert world.kinds() == ["unbind", "bind"]
    ticket = world.submit(lane, [1])
    world.server.commit()
    world.deliver()
    assert ticket.error is None
    assert ticket.first_seqs == [21]


def test_a_bound_that_knows_of_the_generation_is_taken_as_it_is() -> None:
    world = World()
    lane = world.open()
    world.core.generation_begins(lane)
    world.break_()
    world.server.sessions["s"].applied = 20
    world.server.sessions["s"].ack = 20
    world.connect()
    world.kinds()
    world.do(world.core.generated(lane, 20))
    world.deliver()
    assert lane.phase is LanePhase.BOUND
    assert "unbind" not in world.kinds()
