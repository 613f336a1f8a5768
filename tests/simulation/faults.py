"""What goes wrong: short functions, each a fault that begins now and mends itself later."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .network import KEEPALIVE_S
from .server import LEASE_TTL_S
from .world import NATURE

if TYPE_CHECKING:
    from .schedule import Simulation


def crash(sim: Simulation) -> None:
    """kill -9 of a replica; it comes back after a while."""
    replica = sim.rng.choice(sim.replicas)
    replica.restart_s = sim.rng.random() * 0.3
    replica.crash()


def drain(sim: Simulation) -> None:
    """SIGTERM of a replica; it comes back after a while."""
    replica = sim.rng.choice(sim.replicas)
    replica.restart_s = sim.rng.random() * 0.3
    replica.drain()


def freeze(sim: Simulation) -> None:
    """SIGSTOP of a replica, mostly for longer than its lease, and SIGCONT."""
    replica = sim.rng.choice(sim.replicas)
    replica.freeze()
    sim.world.call(sim.rng.random() * 2 * LEASE_TTL_S, NATURE, replica.thaw)


def zombie(sim: Simulation, tries: int = 50) -> None:
    """SIGSTOP in the middle of a commit, beyond the lease, while the router sends clients elsewhere."""
    replica = sim.rng.choice(sim.replicas)
    if not replica.commits and tries:
        sim.world.call(0.01, NATURE, zombie, sim, tries - 1)
        return
    replica.freeze()
    sim.router.switch()
    sim.world.call((1 + sim.rng.random()) * LEASE_TTL_S, NATURE, replica.thaw)


def switch(sim: Simulation) -> None:
    """The router sends clients elsewhere, and breaks off the streams that it carried."""
    sim.router.switch()


def client_crash(sim: Simulation) -> None:
    """kill -9 of a client; it comes back after a while."""
    sim.rng.choice(sim.clients).crash(sim.rng.random() * 0.3)


def takeover(sim: Simulation) -> None:
    """Another client's application takes a session."""
    sim.take_over()


def cut(sim: Simulation) -> None:
    """A stream breaks; what was under way is lost."""
    if sim.network.connections:
        sim.rng.choice(sim.network.connections).break_off(late=False)


def cut_late(sim: Simulation) -> None:
    """A stream breaks for its client; its last messages reach the server much later."""
    if sim.network.connections:
        sim.rng.choice(sim.network.connections).break_off(late=True)


def one_way(sim: Simulation) -> None:
    """One direction of a stream stalls, perhaps until the client gives it up."""
    if sim.network.connections:
        connection = sim.rng.choice(sim.network.connections)
        channel = sim.rng.choice((connection.to_server, connection.to_client))
        seconds = sim.rng.random() * 2 * KEEPALIVE_S
        channel.stall(seconds)
        if seconds > KEEPALIVE_S:
            connection.go_silent()


def lag(sim: Simulation) -> None:
    """Packets take long for a while."""
    sim.network.slow_s = 0.05 + sim.rng.random() * 0.2
    sim.world.call(sim.rng.random() * 0.5, NATURE, sim.network.heal)


def slow_store(sim: Simulation) -> None:
    """The store takes its time."""
    sim.storage.slow_s = 0.02 + sim.rng.random() * 0.2
    sim.world.call(sim.rng.random(), NATURE, sim.storage.heal)


def lost_answers(sim: Simulation) -> None:
    """The store does what it is asked, and sometimes nobody learns so."""
    sim.storage.losing = 0.3
    sim.world.call(sim.rng.random(), NATURE, sim.storage.heal)


def late_commits(sim: Simulation) -> None:
    """Some commits get stuck on their way, are given up and sent anew, and arrive behind newer ones."""
    sim.storage.delaying = 0.3
    sim.world.call(sim.rng.random(), NATURE, sim.storage.heal)


def outage(sim: Simulation) -> None:
    """The store cannot be reached, perhaps for longer than a lease."""
    sim.storage.away = True
    sim.world.call(sim.rng.random() * 1.5 * LEASE_TTL_S, NATURE, sim.storage.heal)


def roll_back(sim: Simulation) -> None:
    """The store becomes as it was a while ago."""
    sim.storage.roll_back()


def curt(sim: Simulation) -> None:
    """A replica refuses messages for a while without saying to which session, as a server may."""
    process = sim.rng.choice(sim.replicas).process
    if process is not None:
        process.curt = 0.3
        sim.world.call(sim.rng.random() * 0.3, process.life, setattr, process, "curt", 0.0)


def skew(_sim: Simulation) -> None:
    """The clocks of clients differ, from the beginning: see `Simulation`."""


FAULTS: dict[str, Callable[[Simulation], None]] = {
    fault.__name__: fault
    for fault in (
        crash,
        drain,
        freeze,
        zombie,
        switch,
        client_crash,
        takeover,
        cut,
        cut_late,
        one_way,
        lag,
        slow_store,
        lost_answers,
        late_commits,
        outage,
        roll_back,
        skew,
    )
}
"""Each schedule draws a few of these, so that some meet undiluted."""

CROWDED_FAULTS = {"drain": drain, "curt": curt}
"""Those of a crowded schedule, beside the others."""
