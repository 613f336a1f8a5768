"""One schedule: a seed becomes replicas, clients, sessions and faults, runs, settles, and is judged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from carousel._core.addresses import Addresses
from carousel._core.attach import AttachCore
from carousel_server.core.store import SessionKey
from carousel_server.core.types import Durability

from . import fleet, hasty, preemption, prober, repeater
from .application import KEPT_S, POLICY, Application, Plan
from .client import SERVER, Client, ClientProcess
from .faults import CROWDED_FAULTS, FAULTS
from .fleet import Fleet
from .fleet_faults import FLEET_FAULTS
from .hasty import Hasty
from .model import FoldModel
from .network import Network
from .oracle import TENANT, Oracle
from .prober import Prober
from .quiet import listening
from .raw import RawClient
from .repeater import Repeater
from .server import Process, Replica, limits_of
from .storage import Storage
from .world import NATURE, World

_LONG_CHANCE = 0.2
"""Most schedules are short: they show more in the same time. Some things take longer to come about."""

_SHORT_S, _LONG_S = 0.7, 1.5
"""Until when there are faults: about as long as the applications take, so that most hit one at work."""

SETTLED_BY_S = 60.0
MOST_EVENTS = 60_000

_RAW_CLIENTS: tuple[tuple[type[RawClient], str, Durability], ...] = (
    (Prober, prober.SESSION, Durability.NONE),
    (Hasty, hasty.SESSION, Durability.ASYNC),
)
_RAW_CHANCE = 0.1
_CROWDED_EVERY = 8
"""One schedule in so many is crowded: inboxes are small, servers are curt, and streams outlive engines."""

_INBOX_COMMANDS, _SMALL_INBOXES = 256, (1, 2, 4)
_SLOW_STOP_S = 0.2
_CROWDED_CHANCE = 0.6
_CROWDED_TIMES = 4

_LEVELS = (Durability.ASYNC, Durability.ASYNC, Durability.SYNC)
_RESETTING_CHANCE = 0.25
"""So many schedules have resets, and in some of them batches fail."""

_STUMBLE_CHANCE, _MOST_STUMBLES = 0.4, 6
_SLOW_PROMPTS_CHANCE = 0.3
"""In so many schedules, texts may take long to become tokens. Only those that generate are changed."""

_REPEATER_CHANCE, _JOURNAL_CHANCE = 0.2, 0.4

_KEEPING_FAULTS = frozenset(
    {"crash", "drain", "freeze", "outage", "lost_answers", "roll_back", "client_crash"}
    | FLEET_FAULTS.keys() - {"scale_up"}
)
"""Faults through which a session that was to be closed may stay."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a schedule went."""

    seed: int
    faults: tuple[str, ...]
    failures: tuple[str, ...]
    trace: tuple[str, ...]
    endings: tuple[str, ...]
    steps: int
    events: int
    virtual_s: float


class Router:
    """Sends clients to one replica at a time, as consistent hashing of a session's id would."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._home = 0

    def route(self) -> Replica:
        """Where a new stream goes."""
        replicas = self._sim.replicas
        if not replicas[self._home].up:
            self._home = next((i for i, one in enumerate(replicas) if one.up), self._home)
        return replicas[self._home]

    def switch(self) -> None:
        """Elsewhere from now on; the streams that it carried break."""
        sim = self._sim
        self._home = (self._home + 1) % len(sim.replicas)
        sim.world.note("router", "points to", sim.replicas[self._home].name)
        for connection in list(sim.network.connections):
            connection.break_off(late=sim.rng.random() < 0.5)


class Simulation:
    """One schedule on its way."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.world = world = World(seed, tracing=tracing)
        self.rng: random.Random = world.rng
        self.oracle = Oracle(world)
        self.resetting = world.resets.random() < _RESETTING_CHANCE
        self.network = Network(world)
        self.fleet = fleet.drawn(world, FLEET_FAULTS)
        self.storage = Storage(world, self.oracle, fleet.media(self.fleet))
        self.router = Router(self)
        self.healed = False
        self.long = self.rng.random() < _LONG_CHANCE
        self.faults_until_s = _LONG_S if self.long else _SHORT_S
        chance = self.rng.choice((0.1, 0.3, 0.6))
        self.faults = tuple(name for name in FAULTS if self.rng.random() < chance)
        self.crowded = seed % _CROWDED_EVERY == 0
        if self.crowded:
            crowd = (name for name in CROWDED_FAULTS if self.rng.random() < _CROWDED_CHANCE)
            self.faults = tuple(dict.fromkeys((*self.faults, *crowd)))
        if "crash" in self.faults and self.rng.random() < 0.3:
            self.oracle.drift = 1
        self.clients = [self._client(f"client{i}") for i in range(self.rng.randint(1, 2))]
        for i, client in enumerate(self.clients):
            for j in range(self.rng.choice((1, 2, 2, 3) if self.long else (1, 1, 2))):
                self._plan_session(client, f"s{i}{j}", unkept=i + j == 0)
        self.raw = [
            self._raw_client(kind, session_id, durability)
            for kind, session_id, durability in _RAW_CLIENTS
            # They do not try again what a full inbox refuses.
            if self.rng.random() < _RAW_CHANCE and not self.crowded
        ]
        if self.resetting and not self.crowded and world.resets.random() < _REPEATER_CHANCE:
            self.raw.append(self._raw_client(Repeater, repeater.SESSION, Durability.ASYNC))
        inbox_commands = self.rng.choice(_SMALL_INBOXES) if self.crowded else _INBOX_COMMANDS
        # Little room, so that sessions push each other out; those without a store cannot be.
        unkept = sum(not history.tracked for history in self.oracle.histories.values())
        limits = limits_of(unkept + self.rng.choice((1, 1, 2, 3, 6)), inbox_commands)
        self.replicas = [
            Replica(world, name, self.storage, self.oracle, limits)
            for name in self._names(self.rng.randint(1, 2))
        ]
        slow_prompts = world.prompts.random() < _SLOW_PROMPTS_CHANCE
        stops = world.threads.random() < preemption.CHANCE
        for replica in self.replicas:
            replica.slow_stop_s = _SLOW_STOP_S if self.crowded else 0.0
            replica.slow_prompts = slow_prompts
            replica.stops_after_binds = stops
        if self.fleet is not None:
            self._prepare(self.fleet)
        self._plan_faults()
        if self.resetting and not self.raw and world.resets.random() < _STUMBLE_CHANCE:
            self._plan_stumbles()

    @property
    def applications(self) -> list[Application]:
        """Of all clients."""
        return [application for client in self.clients for application in client.applications]

    def run(self) -> Verdict:
        """Until all applications are done and the dust has settled, or something is wrong."""
        world, oracle = self.world, self.oracle
        with listening(oracle.fail), torch.inference_mode():
            for replica in self.replicas:
                if not replica.stays_away:
                    replica.start()
            while not oracle.failures and (world.events % 8 or not self._settled()):
                if not world.step() or world.now_s > SETTLED_BY_S or world.events > MOST_EVENTS:
                    self._tell_stuck()
                    break
        self._judge()
        applications = self.applications
        return Verdict(
            self.seed,
            self.faults,
            tuple(oracle.failures),
            tuple(world.trace),
            tuple(application.why for application in applications)
            + ("muddled",) * any(one.muddled for one in oracle.histories.values()),
            oracle.told,
            world.events,
            world.now_s,
        )

    def take_over(self) -> None:
        """An application of another client, or of the same, takes a session."""
        taken = self.rng.choice(self.applications)
        if taken.plan.journals or taken.plan.generates or not taken.history.tracked or taken.done:
            return
        plan = Plan(tickets=2, most_steps=3, depth=1, pause_s=0.1, opens=False)
        client = self.rng.choice(self.clients)
        if any(one.history is taken.history for one in client.applications):
            return  # one client has a session once
        client.run(Application(self.world, self.oracle, client.name, taken.history, plan), 0.0)

    # -- plans

    def _names(self, most: int) -> Sequence[str]:
        return ("a", "b")[:most] if self.fleet is None else self.fleet.names

    def _prepare(self, some: Fleet) -> None:
        """Makes replicas and clients a fleet."""
        self.faults_until_s = _LONG_S
        self.faults += some.faults
        self.oracle.fleet = True
        for replica in self.replicas:
            replica.address = fleet.address_of(replica.name)
            replica.in_fleet = True
            replica.stays_away = replica.name in some.standby
            replica.limits = fleet.limits_in(some, replica.limits)
        fleet.begin(self, some)

    def _raw_client(
        self, kind: type[RawClient], session_id: str, durability: Durability
    ) -> RawClient:
        route = self.router.route
        raw = kind(self.world, self.network, self.oracle, route, session_id, durability)
        self.world.call(self.rng.random(), NATURE, raw.start)
        return raw

    def _client(self, name: str) -> Client:
        """A client whose clock may be off."""
        skew_s = self.rng.choice((-0.5, 0.0, 0.5)) if "skew" in self.faults else 0.0

        route, target = fleet.route_of(self), fleet.target_for(self.world, self.fleet)

        def start() -> ClientProcess:
            core = AttachCore(
                Addresses(target, several=target != (SERVER,)),
                POLICY,
                rng=self.rng,
                attach_id=lambda: int((self.world.wall() + skew_s) * 1e4),
            )
            return ClientProcess(self.world, self.network, self.oracle, name, route, core)

        return Client(name, start)

    def _plan_session(self, client: Client, session_id: str, *, unkept: bool) -> None:
        rng = self.rng
        durability = Durability.NONE if unkept and rng.random() < 0.3 else rng.choice(_LEVELS)
        tracked = durability is not Durability.NONE
        expires = tracked and rng.random() < 0.05
        plan = Plan(
            tickets=rng.choice((2, 3, 4, 6) if self.long else (1, 2, 2, 3)),
            most_steps=rng.choice((1, 3, 6)),
            depth=rng.randint(1, 4),
            pause_s=rng.choice((0.01, 0.05, 0.2, 0.6)),
            closes=rng.random() < (0.9 if self.crowded else 0.3),
            naps_s=1.5 if expires else 0.0,
            idle_ttl_s=0.8 if expires else KEPT_S,
        )
        how = rng.random()
        if (
            how < 0.2 and not self.oracle.drift
        ):  # tokens that are drawn otherwise are another matter
            plan = replace(plan, generates=0.4)
        elif how < 0.5 and "client_crash" in self.faults and tracked:
            plan = replace(plan, journals=True)
        if self.resetting:
            plan = self._with_resets(plan, journals="client_crash" in self.faults and tracked)
        history = self.oracle.open(session_id, durability, plan.idle_ttl_s)
        application = Application(self.world, self.oracle, client.name, history, plan)
        client.run(application, rng.random() * 0.2)

    def _with_resets(self, plan: Plan, *, journals: bool) -> Plan:
        """The plan, perhaps with resets, and with a journal too if there may be one."""
        chance = self.world.resets
        resets = chance.choice((0.0, 0.2, 0.5))
        journals &= not plan.generates and chance.random() < _JOURNAL_CHANCE
        return replace(plan, resets=resets, journals=plan.journals or journals)

    def _plan_faults(self) -> None:
        world, rng = self.world, self.rng
        for name in self.faults:
            if name in FLEET_FAULTS:
                continue
            for _ in range(rng.randint(1, _CROWDED_TIMES if self.crowded else 2)):
                world.call(rng.random() * self.faults_until_s, NATURE, self.fault, name)
        if "roll_back" in self.faults:
            world.call(rng.random() * self.faults_until_s / 2, NATURE, self.storage.keep_copy)
        world.call(self.faults_until_s, NATURE, self._heal)

    def _plan_stumbles(self) -> None:
        """A few batches will fail, down to single steps: a retry of its halves does not help a batch."""
        chance = self.world.resets
        for _ in range(chance.randint(1, 3)):
            delay_s = chance.random() * self.faults_until_s
            self.world.call(delay_s, NATURE, self._stumble, chance.randint(1, _MOST_STUMBLES))

    def _stumble(self, batches: int) -> None:
        self.oracle.stumbled = True
        for replica in self.replicas:
            if replica.process is not None:
                stumble(replica.process, batches)

    def fault(self, name: str) -> None:
        """Something goes wrong."""
        self.world.note("fault", name)
        {**FAULTS, **CROWDED_FAULTS, **FLEET_FAULTS}[name](self)

    def _heal(self) -> None:
        """Nothing goes wrong any more.

        After a roll-back the store may say that a replica holds what it has long let go of, which only a
        restart of that replica clears up.
        """
        self.world.note("nature", "heals")
        self.healed = self.network.healed = True
        self.network.heal()
        self.storage.heal()
        for replica in self.replicas:
            replica.thaw()
            if replica.process is not None:
                replica.process.curt = 0.0
                stumble(replica.process, 0)
            if "roll_back" in self.faults:
                replica.restart_s = 0.0
                replica.crash()

    # -- the end

    def _settled(self) -> bool:
        busy = any(not one.done for one in self.applications) or any(one.busy for one in self.raw)
        return not busy and not self._left_open()

    def _left_open(self) -> list[str]:
        """Sessions that were closed and are still stored, though nothing explains it."""
        if not _KEEPING_FAULTS.isdisjoint(self.faults):
            return []
        return [
            history.id
            for history in self.oracle.histories.values()
            # One that is contested may be another's by the time it was to be closed.
            if history.closed_s is not None and not history.contested and self._is_kept(history.id)
        ]

    def _is_kept(self, session_id: str) -> bool:
        """The store has it with steps: without any, a late opening on an older stream has made it anew."""
        stored = self.storage.stored(SessionKey(TENANT, session_id))
        return stored is not None and stored.seq > 0

    def _tell_stuck(self) -> None:
        for application in self.applications:
            if not application.done:
                self.oracle.fail(f"{application.name} is stuck")
        for raw in self.raw:
            if raw.busy:
                self.oracle.fail(f"{raw.session_id} is stuck")
        for session_id in self._left_open():
            self.oracle.fail(f"{session_id} was closed and is still stored")

    def _judge(self) -> None:
        for replica in self.replicas:
            if replica.process is not None:
                self.oracle.check_integrity(replica.process)
        for application in self.applications:
            if application.owes_divergence:
                self.oracle.fail(f"R12: {application.name} did not hear that a replay differed")


def stumble(process: Process, batches: int) -> None:
    """So many of the next batches of a server fail."""
    model = process.engine._loaded
    assert isinstance(model, FoldModel)
    model.stumbles = batches


def run(seed: int, *, tracing: bool = False) -> Verdict:
    """Runs one schedule."""
    return Simulation(seed, tracing=tracing).run()
