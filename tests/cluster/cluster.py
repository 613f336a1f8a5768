"""The cluster under test: hosts, a store, replicas and clients, all started and ended here."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from support.clocks import ShiftedClock
from support.proxies import HAProxy
from support.server import ServerProcess

from tests.chaos.load import Shape
from tests.chaos.servers import Site

from .client import Work
from .clients import ClientProcess, all_do
from .network import Host, Network
from .records import Record
from .store import OneRedis, RedisCluster, Store

PORT, METRICS_PORT = 50051, 9464
HOUR_S = 3600
_WALL_CLOCKS_S = (0, -HOUR_S, HOUR_S, 2 * HOUR_S, -2 * HOUR_S)
"""How wrong the wall clock of each replica is."""


@dataclass(frozen=True)
class Form:
    """The size of a run.

    Attributes:
        replicas, spare: replicas at the start, and how many more may come.
        shards: primaries of the store, each with a replica; 0 is one Redis alone.
        clients: processes, each with the sessions of `shape`.
        levels: durabilities of the sessions.
        outsiders: further sessions of each process, by unary calls through HAProxy.
        lease_ttl_s: of the replicas.
        quiet_s: how long nothing happens, for comparison.
        steps: that a run makes at least, beyond a round of all faults.
        faults: names in their order; empty is round after round of all, in an order of the seed.
    """

    replicas: int
    spare: int
    shards: int
    clients: int
    shape: Shape
    levels: tuple[str, ...]
    lease_ttl_s: float
    quiet_s: float
    steps: int
    outsiders: int = 0
    faults: tuple[str, ...] = ()


class Cluster:
    """All processes of a run, on hosts of their own. Use as a context manager, inside a sandbox.

    Attributes:
        replicas: those of the start and the spare ones; a spare one is not alive.
        clients: processes of clients, once they are started.
    """

    def __init__(self, form: Form, models: Path, folder: Path) -> None:
        self.form = form
        self._folder = folder
        self._stack = ExitStack()
        self.network = Network()
        self.stores = [self.network.add(f"store-{n}") for n in range(2 * form.shards or 1)]
        self.store: Store = (RedisCluster if form.shards else OneRedis)(self.stores, folder)
        self.proxy = _proxy(self.network, folder) if form.outsiders else None
        self.clients: list[ClientProcess] = []
        self.hosts: list[Host] = []
        self.clocks: list[ShiftedClock] = []
        self.replicas: list[Site] = []
        for number in range(form.replicas + form.spare):
            self._add_replica(number, models)

    def _add_replica(self, number: int, models: Path) -> None:
        name = f"replica-{number}"
        host = self.network.add(name)
        host.shift_uptime((number + 1) * HOUR_S)
        shift_s = _WALL_CLOCKS_S[number % len(_WALL_CLOCKS_S)]
        clock = ShiftedClock(self._folder / f"clock-{number}", shift_s)
        self.hosts.append(host)
        self.clocks.append(clock)
        self.replicas.append(
            Site(
                models,
                self.store.url,
                inside=host.inside,
                environment=clock.environment,
                host=host.address,
                port=PORT,
                metrics_host=host.address,
                metrics_port=METRICS_PORT,
                replica=name,
                advertise=f"{host.address}:{PORT}",
                insecure=True,
                lease_ttl_s=self.form.lease_ttl_s,
            )
        )

    def __enter__(self) -> Self:
        self.store.start()
        with self._stack as stack:
            for site in self.replicas:
                stack.enter_context(site)
            self.start(self.replicas[: self.form.replicas])
            if self.proxy is not None:
                stack.enter_context(self.proxy).serve(self.living())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        for client in self.clients:
            client.kill()
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    # -- clients

    def start_clients(self) -> None:
        """Starts all clients, and waits until each session has had an output."""
        shape = self.form.shape
        for number in range(self.form.clients):
            first = number * (sessions_of(shape) + self.form.outsiders)
            its = replace(shape, first=first, prefix=f"client-{number}")
            file = self._folder / f"client-{number}.npz"
            work = Work(self.target, str(file), self.form.levels, asdict(its))
            if self.proxy is not None:
                work = replace(work, outsiders=self.form.outsiders, proxy=self.proxy.target)
            self.clients.append(ClientProcess(self.network.add(f"client-{number}"), work))
        for client in self.clients:
            client.hears("started")
        self.advance()

    def advance(self) -> None:
        """Waits until each session has had another output."""
        all_do(self.clients, "advance", "advanced")

    def finish(self) -> Record:
        """Lets all clients end, and returns what they have got."""
        all_do(self.clients, "finish", "finished")
        record = Record()
        for client in self.clients:
            record.add(client.record())
        return record

    @property
    def sessions(self) -> int:
        """Of all clients."""
        return sum(client.sessions for client in self.clients)

    @property
    def steps(self) -> int:
        """Outputs that all clients had when they were last asked."""
        return sum(client.steps for client in self.clients)

    @property
    def told(self) -> str:
        """What the replicas have logged, for a run that has failed."""
        sites = zip(self.hosts, self.replicas, strict=True)
        return "\n".join(f"== {host.name} at {site.target}\n{site.told}" for host, site in sites)

    @property
    def target(self) -> str:
        """Of clients: the replicas of the start. They find the spare ones by redirects."""
        return ",".join(site.target for site in self.replicas[: self.form.replicas])

    # -- for faults

    def start(self, sites: Sequence[Site]) -> None:
        """Starts replicas beside each other, and waits until they are ready."""
        with ThreadPoolExecutor(max_workers=len(sites) or 1) as pool:
            list(pool.map(Site.start, sites))

    def tell_proxy(self) -> None:
        """Which replicas there are."""
        if self.proxy is not None:
            self.proxy.serve(self.living())

    def living(self) -> list[ServerProcess]:
        """The replicas that are not dead, as the proxy knows them."""
        return [site.server for site in self.replicas if site.is_alive and site.server is not None]

    def beside(self, host: Host) -> list[Host]:
        """All other hosts."""
        return [other for other in self.network.hosts if other is not host]

    def client_hosts(self) -> list[Host]:
        """Where clients run."""
        return [client.host for client in self.clients]

    def hold(self, seconds: float) -> None:
        """Lets a fault last."""
        threading.Event().wait(seconds)


def _proxy(network: Network, folder: Path) -> HAProxy:
    host = network.add("proxy")
    place = folder / "proxy"
    place.mkdir()
    return HAProxy(place, host=host.address, inside=host.inside)


def sessions_of(shape: Shape) -> int:
    """How many sessions a shape has."""
    return (
        shape.batches * shape.batch_sessions
        + shape.steppers * shape.stepper_sessions
        + shape.streamers
        + shape.tasks
        + shape.texts
    )
