"""Sessions of several servers under moves, breaks and crashes in any order: each step counts once."""

from __future__ import annotations

import random

import pytest

from carousel._core.lane import Lane
from carousel._core.retry import RetryPolicy
from carousel._core.tickets import StepTicket
from carousel._errors import DrainingError
from carousel_protos.v1 import carousel_pb2 as pb

from .cluster import ADDRESSES, Cluster
from .miniature import fold, outputs_of

SESSIONS, ROUNDS = 5, 60


class Chaos:
    """Random events, and what each session was fed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(RetryPolicy(reconnect_s=1000.0))
        self.lanes = [self.cluster.open(f"s{n}") for n in range(SESSIONS)]
        self.fed: dict[int, list[int]] = {lane.handle: [] for lane in self.lanes}
        self.tickets: list[tuple[StepTicket, list[Lane]]] = []

    def submit(self) -> None:
        lanes = self.rng.sample(self.lanes, self.rng.randint(1, SESSIONS))
        steps = self.rng.randint(1, 12)
        rows = [[self.rng.randrange(1000) for _ in range(steps)] for _ in lanes]
        for lane, row in zip(lanes, rows, strict=True):
            self.fed[lane.handle] += row
        self.tickets.append((self.cluster.submit(lanes, *rows), lanes))

    def hand_over(self) -> None:
        session = self.cluster.all.get(self.rng.choice(self.lanes).session_id)
        if session.holder:
            to = self.rng.choice([*(set(ADDRESSES) - {session.holder}), ""])
            self.cluster.all.hand_over(session, to)

    def commit(self) -> None:
        self.cluster.all.commit(self.rng.choice(self.lanes).session_id)

    def break_stream(self) -> None:
        if self.cluster.streams:
            self.cluster.break_(self.rng.choice(sorted(self.cluster.streams)))

    def drain(self) -> None:
        if self.cluster.streams:
            address = self.rng.choice(sorted(self.cluster.streams))
            self.cluster.streams[address].send(drain=pb.Drain())
            self.some()
            if address in self.cluster.streams:
                self.cluster.all.commit()
                self.cluster.all.crash(address)
                self.cluster.break_(address, DrainingError("stops"))

    def kill(self) -> None:
        running = sorted(set(self.cluster.streams) - self.cluster.down - set(self.cluster.silent))
        if running and len(self.cluster.down) < len(ADDRESSES) - 1:
            self.cluster.kill(self.rng.choice(running))

    def vanish(self) -> None:
        running = sorted(set(self.cluster.streams) - self.cluster.down - set(self.cluster.silent))
        if running and len(self.cluster.down) < len(ADDRESSES) - 1:
            self.cluster.vanish(self.rng.choice(running))

    def notice(self) -> None:
        """The client's keepalive, or the answer of the host that is back."""
        if self.cluster.silent:
            self.cluster.break_(self.rng.choice(sorted(self.cluster.silent)))

    def revive(self) -> None:
        self.cluster.down.clear()

    def refuse(self) -> None:
        address = self.rng.choice(ADDRESSES)
        reason = self.rng.choice(("SLAB_FULL", "STORE_UNAVAILABLE", "SESSION_PARKED", "DRAINING"))
        self.cluster.refuse(address, self.rng.choice(("Bind", "Step")), reason)

    def finish(self) -> None:
        """Commits and waits, until every ticket has ended."""
        for _ in range(1000):
            self.cluster.all.commit()
            self.cluster.run()
            if all(ticket in self.cluster.ended for ticket, _ in self.tickets):
                return
        raise AssertionError("steps were never answered")

    def some(self) -> None:
        left = self.rng.randint(1, 30)

        def over() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        self.cluster.run(over)


@pytest.mark.parametrize("seed", range(60))
def test_each_step_counts_once_wherever_its_session_is(seed: int) -> None:
    chaos = Chaos(seed)
    events = (
        *(chaos.submit, chaos.hand_over, chaos.commit, chaos.break_stream),
        *(chaos.drain, chaos.kill, chaos.revive, chaos.refuse),
        *(chaos.vanish, chaos.notice),
    )
    for _ in range(ROUNDS):
        chaos.rng.choice(events)()
        if chaos.rng.random() < 0.8:
            chaos.some()
    chaos.revive()
    chaos.finish()
    got: dict[int, list[list[int]]] = {lane.handle: [] for lane in chaos.lanes}
    for ticket, lanes in chaos.tickets:
        assert ticket.error is None, ticket.error
        for place, lane in enumerate(lanes):
            got[lane.handle] += outputs_of(ticket, place)
    for lane in chaos.lanes:
        assert got[lane.handle] == fold(chaos.fed[lane.handle])
    statistics = chaos.cluster.core.statistics()
    assert statistics.replays_diverged == 0
    assert len(statistics.move_pauses_s) <= statistics.moves
