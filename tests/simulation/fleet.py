"""A fleet: up to five replicas on a store of shards, clients with many addresses, replicas that come and go.

All its chance is `World.fleets` and `World.machines`, so schedules without a fleet are not changed by it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from carousel_server.core.limits import EngineLimits
from carousel_server.store.memory import MemoryMedium

from .client import SERVER, Client, Route
from .fleet_faults import OF_MACHINES
from .world import NATURE, World

if TYPE_CHECKING:
    from .schedule import Simulation
    from .server import Replica

CHANCE = 0.25
"""So many schedules have a fleet."""

_NAMES = "abcde"
_MOST_SHARDS = 3
_FAULT_CHANCE = 0.4
_LATE_CHANCE, _LATE_STEPS, _LATE_S = 0.3, 8, 0.5
"""So many fleets commit late: more of their steps have run than the store has, as on servers under load."""

_STANDBY_CHANCE = 0.4
_ROUTED_CHANCE, _LOOKING_CHANCE = 0.2, 0.6
_OLD_CHANCE, _PARTIAL_CHANCE = 0.2, 0.4
_LOOK_UP_S = 0.4
"""A client looks its target up so often at least."""

NOWHERE = "z:1"
"""An address without a server, on lists that are old."""


def address_of(name: str) -> str:
    """Where a replica of a fleet is."""
    return f"{name}:1"


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a schedule with a fleet has.

    Attributes:
        names: of the replicas.
        standby: those that are not there in the beginning.
        shards: of the store.
        faults: those that only fleets have.
        late: its replicas commit late.
    """

    names: tuple[str, ...]
    standby: frozenset[str]
    shards: int
    faults: tuple[str, ...]
    late: bool

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of all replicas, those on standby too."""
        return tuple(map(address_of, self.names))


def drawn(world: World, faults: dict[str, Callable[[Simulation], None]]) -> Fleet | None:
    """The fleet of a schedule; None if it has none."""
    chance = world.fleets
    if chance.random() >= CHANCE:
        return None
    names = tuple(_NAMES[: chance.randint(1, len(_NAMES))])
    standby = frozenset(one for one in names[1:] if chance.random() < _STANDBY_CHANCE)
    some = tuple(name for name in faults if _chance_of(world, name).random() < _FAULT_CHANCE)
    late = world.machines.random() < _LATE_CHANCE
    return Fleet(names, standby, chance.randint(1, _MOST_SHARDS), some, late)


def _chance_of(world: World, fault: str) -> random.Random:
    """The stream that decides whether and when a fault comes."""
    return world.machines if fault in OF_MACHINES else world.fleets


def limits_in(fleet: Fleet, limits: EngineLimits) -> EngineLimits:
    """The limits of a fleet's replicas."""
    return replace(limits, durable_steps=_LATE_STEPS, durable_s=_LATE_S) if fleet.late else limits


def media(fleet: Fleet | None) -> list[MemoryMedium]:
    """The shards of a store."""
    return [MemoryMedium() for _ in range(1 if fleet is None else fleet.shards)]


def target_for(world: World, fleet: Fleet | None) -> tuple[str, ...]:
    """What a client knows in the beginning of each life: all replicas, or only the router before them."""
    routed = fleet is None or world.fleets.random() < _ROUTED_CHANCE
    return (SERVER,) if routed or fleet is None else fleet.addresses


def route_of(sim: Simulation) -> Route:
    """How the network leads to replicas."""

    def route(address: str) -> Replica | None:
        if address == SERVER:
            return sim.router.route()
        return next((one for one in sim.replicas if one.address == address), None)

    return route


def look_up(sim: Simulation, client: Client) -> None:
    """The client looks its target up again: the replicas that are up, now and then an old answer."""
    chance = sim.world.fleets
    core = client.process.core
    if core._addresses.several and client.process.life.alive:
        known = [one.address for one in sim.replicas if one.up]
        chance.shuffle(known)
        if sim.healed:
            pass
        elif chance.random() < _OLD_CHANCE:
            known[:1] = [NOWHERE]
        elif chance.random() < _PARTIAL_CHANCE:
            known = known[: chance.randint(1, len(_NAMES))]
        if known:
            core._addresses.replace(known)
            client.process.perform(core.tidy())
    sim.world.call(_LOOK_UP_S * (0.1 + chance.random()), NATURE, look_up, sim, client)


def begin(sim: Simulation, fleet: Fleet) -> None:
    """Lets the clients look up, and plans the fleet's faults."""
    world, chance = sim.world, sim.world.fleets
    for client in sim.clients:
        if chance.random() < _LOOKING_CHANCE:
            world.call(chance.random() * _LOOK_UP_S, NATURE, look_up, sim, client)
    for name in fleet.faults:
        chance = _chance_of(world, name)
        for _ in range(chance.randint(1, 2)):
            world.call(chance.random() * sim.faults_until_s, NATURE, sim.fault, name)
