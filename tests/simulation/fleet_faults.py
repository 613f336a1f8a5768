"""What goes wrong with fleets only: shards, partitions, replicas that come and go. See `faults`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .server import LEASE_TTL_S
from .world import NATURE

if TYPE_CHECKING:
    from .schedule import Simulation
    from .server import Process, Replica


def scale_up(sim: Simulation) -> None:
    """A replica comes that was not there."""
    away = [one for one in sim.replicas if one.process is None and one.stays_away]
    if away:
        replica = sim.world.fleets.choice(away)
        replica.stays_away = False
        replica.start()


def scale_down(sim: Simulation) -> None:
    """A replica drains and does not come back, if it is not the last."""
    up = [one for one in sim.replicas if one.up and not one.stays_away]
    if len(up) > 1 + len(sim.network.splits):
        replica = sim.world.fleets.choice(up)
        replica.stays_away = True
        replica.drain()


def rolling_restart(sim: Simulation) -> None:
    """One replica after the other drains and comes back."""
    for number, replica in enumerate(sim.replicas):
        sim.world.call(number * 0.2, NATURE, _restart, sim, replica.name)


def _restart(sim: Simulation, name: str) -> None:
    (replica,) = (one for one in sim.replicas if one.name == name)
    replica.restart_s = sim.world.fleets.random() * 0.1
    replica.drain()


def partition(sim: Simulation) -> None:
    """A client and a replica do not reach each other for a while; others reach both."""
    chance = sim.world.fleets
    client, replica = chance.choice(sim.clients), chance.choice(sim.replicas)
    seconds = chance.random() * 3 * LEASE_TTL_S
    sim.network.cut(client.name, replica.name, seconds)
    sim.world.call(seconds, NATURE, sim.network.cuts.discard, (client.name, replica.name))


def split(sim: Simulation) -> None:
    """A client never reaches a replica again, if it knows others and some stay up."""
    chance = sim.world.fleets
    client, replica = chance.choice(sim.clients), chance.choice(sim.replicas)
    others = [one for one in sim.replicas if one is not replica and not one.stays_away]
    knows_others = client.process.core._addresses.several
    if knows_others and others and not sim.network.splits:
        sim.network.split(client.name, replica.name)


def cut_off(sim: Simulation) -> None:
    """A replica does not reach the store, perhaps for longer than its lease; its clients reach it."""
    chance = sim.world.fleets
    name = chance.choice(sim.replicas).name
    sim.storage.cut(name)
    sim.world.call(chance.random() * 2 * LEASE_TTL_S, NATURE, sim.storage.join, name)


def shard_away(sim: Simulation) -> None:
    """One shard does not answer, perhaps for longer than a lease."""
    shard = _any_shard(sim)
    sim.storage.lose(shard)
    seconds = sim.world.fleets.random() * 2 * LEASE_TTL_S
    sim.world.call(seconds, NATURE, sim.storage.find, shard)


def shard_late(sim: Simulation) -> None:
    """One shard makes commits long after they were given up."""
    sim.storage.late_shard = _any_shard(sim)
    seconds = sim.world.fleets.random() * LEASE_TTL_S
    sim.world.call(seconds, NATURE, setattr, sim.storage, "late_shard", None)


def failover(sim: Simulation) -> None:
    """One shard fails over: it is away, and then without the writes that its replica did not have yet.

    Redis answers before its replicas have a write. So a failover may lose what it has confirmed.
    """
    shard, chance = _any_shard(sim), sim.world.fleets
    sim.storage.keep_copy(shard)
    sim.world.call(chance.random() * 0.1, NATURE, _fail_over, sim, shard)


def _fail_over(sim: Simulation, shard: int) -> None:
    if sim.healed:
        return
    sim.storage.lose(shard)
    sim.storage.roll_back(shard)
    seconds = sim.world.fleets.random() * LEASE_TTL_S
    sim.world.call(seconds, NATURE, sim.storage.find, shard)


def vanish(sim: Simulation) -> None:
    """A machine loses its power: none of its streams ends, and its lease runs out. Then it comes back."""
    up = [one for one in sim.replicas if one.up and not one.stays_away]
    if len(up) > 1 + len(sim.network.splits):
        chance = sim.world.machines
        replica = chance.choice(up)
        replica.freeze()
        seconds = (1 + chance.random()) * LEASE_TTL_S
        sim.world.call(seconds, NATURE, _lose_all, replica, replica.process)


def _lose_all(replica: Replica, process: Process) -> None:
    if replica.process is process and process.life.frozen:
        replica.crash()


def _any_shard(sim: Simulation) -> int:
    return sim.world.fleets.randrange(len(sim.storage.media))


FLEET_FAULTS: dict[str, Callable[[Simulation], None]] = {
    fault.__name__: fault
    for fault in (
        scale_up,
        scale_down,
        rolling_restart,
        partition,
        split,
        cut_off,
        shard_away,
        shard_late,
        failover,
        vanish,
    )
}
"""A schedule with a fleet draws a few of these, beside the others."""

OF_MACHINES = frozenset({"vanish"})
"""Those whose chance is `World.machines`. Schedules that do not draw them are as they were without them."""
