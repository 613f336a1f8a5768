"""A tenant with steps for many ticks is backlogged, wherever they wait. A tenant alone never is."""

from __future__ import annotations

import pytest

from carousel_server.core.ports import Close, StepBlock
from carousel_server.core.quotas import Quotas
from carousel_server.engine.backlog import ENOUGH_TICKS

from .fakes import RecordingSink, Rig, RunningSum, block, rows
from .test_generation import generate, ids
from .test_tick_budget import FLOOD, Flood

BATCH = 8
MOST = ENOUGH_TICKS * BATCH
"""Steps that make a tenant backlogged, in an engine with batches of 8 that take no time."""


class Server:
    """An engine with a tenant that floods, and perhaps another one."""

    def __init__(self, *, several: bool = True) -> None:
        self.quotas = Quotas()
        self.rig = Rig(
            quotas=self.quotas,
            slots=FLOOD + 8,
            max_batch=BATCH,
            chunk_steps=1,
            inbox_commands=10_000,
        )
        self.sink = RecordingSink()
        if several:
            self.steady = self.rig.open(tenant="steady")
            self.rig.bind(self.steady, self.sink)
        self.flood = Flood(self.rig)

    @property
    def tenants(self) -> frozenset[str]:
        return self.quotas.backlogged.tenants

    def send(self, sessions: int, steps: int = 1, first_seq: int = 1) -> None:
        """Steps of some of the flood's sessions, in one block."""
        tags, refs = list(range(sessions)), self.flood.refs[:sessions]
        inputs = rows(*[1.0] * (sessions * steps))
        firsts = [first_seq] * sessions
        self.rig.engine.submit(
            StepBlock(self.flood.sink, tags, refs, firsts, steps, inputs, tenant="flood")
        )


def test_a_tenant_is_backlogged_from_many_steps_on_until_it_has_half_as_many() -> None:
    server = Server()
    server.send(MOST)
    server.rig.tick()
    assert server.tenants == frozenset()
    server.send(BATCH + 1, first_seq=2)
    server.rig.tick()
    assert server.tenants == {"flood"}
    ticks = 0
    while server.tenants:
        server.rig.tick()
        ticks += 1
    assert ticks == ENOUGH_TICKS // 2 + 1
    assert not server.rig.engine.idle, "it goes on before there is nothing to run"


def test_others_are_not_backlogged_and_have_their_turn() -> None:
    server = Server()
    server.send(FLOOD)
    server.rig.engine.submit(block(server.sink, server.steady, 1, 1.0, tenant="steady"))
    server.rig.tick()
    assert server.tenants == {"flood"}
    assert len(server.sink.steps) == 1


def test_a_tenant_alone_is_never_backlogged() -> None:
    server = Server(several=False)
    for seq in (1, 2, 3):
        server.send(FLOOD, first_seq=seq)
        assert server.tenants == frozenset()
        server.rig.tick()
        assert server.tenants == frozenset()


def test_it_is_not_backlogged_once_it_is_alone() -> None:
    server = Server()
    server.send(FLOOD)
    server.rig.tick()
    server.rig.run(Close(server.steady))
    assert server.tenants == frozenset()
    server.send(FLOOD, first_seq=2)
    server.send(FLOOD, first_seq=3)
    assert server.tenants == frozenset()


def test_blocks_that_wait_make_a_tenant_backlogged_before_the_next_tick() -> None:
    """The engine may be late: what is read in the meantime must not grow without bound."""
    server = Server()
    server.rig.tick()  # knows of both tenants
    server.send(MOST)
    assert server.tenants == frozenset()
    server.send(1, first_seq=2)
    assert server.tenants == {"flood"}
    server.rig.settle()
    assert server.tenants == frozenset()
    assert len(server.flood.sink.steps) == MOST + 1


def test_blocks_that_can_only_be_refused_count_while_they_wait() -> None:
    server = Server()
    server.rig.tick()
    for _ in range(12):
        server.send(FLOOD, first_seq=9)
    server.rig.tick()
    assert not server.flood.sink.steps
    assert server.rig.engine.pending(), "a tick has taken all blocks"
    assert server.tenants == {"flood"}
    server.rig.settle()
    assert server.tenants == frozenset()
    assert len(server.flood.sink.refusals) == 12 * FLOOD


def test_steps_of_generations_do_not_count() -> None:
    """They come from no stream."""
    quotas = Quotas()
    rig = Rig(RunningSum(tokens=True), quotas=quotas, slots=8, max_batch=1, window_steps=64)
    rig.open(tenant="steady")
    ref = rig.open(tenant="writer")
    sink = generate(rig, ref, ids(*[1] * 40), max_tokens=4)
    for _ in range(10):
        rig.tick()
        assert quotas.backlogged.tenants == frozenset()
    rig.settle()
    assert len(sink.ids) == 4


def test_a_model_that_has_failed_crowds_nobody(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.send(FLOOD)
    server.rig.tick()
    assert server.tenants == {"flood"}
    server.rig.model.broken = True
    server.rig.tick()
    assert server.tenants == frozenset()
    assert "unhealthy" in caplog.text
