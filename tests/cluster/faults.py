"""What happens to the cluster: each fault by its name.

A fault begins, lasts, and is mended before its function returns. No application may get an error by any of
them, since every session is durable and every fault is shorter than the clients' `reconnect_s`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .cluster import HOUR_S, Cluster
from .network import Cut
from .schedule import Event, Kind

LEASE_S = 2.0
"""Of the replicas of every run; holds are chosen around it."""


@dataclass(frozen=True)
class Fault:
    """A fault: what a schedule knows of it, and what it does."""

    kind: Kind
    run: Callable[[Cluster, Event], None]


def _kill(cluster: Cluster, event: Event) -> None:
    site = cluster.replicas[event.target]
    site.kill()
    cluster.hold(event.hold_s)
    site.start()


def _vanish(cluster: Cluster, event: Event) -> None:
    """A machine that loses its power sends no TCP reset to anyone."""
    host, site = cluster.hosts[event.target], cluster.replicas[event.target]
    with Cut([host], cluster.beside(host)):
        site.kill()
        cluster.hold(event.hold_s)
    site.start()


def _cut_from_store(way: str) -> Callable[[Cluster, Event], None]:
    def run(cluster: Cluster, event: Event) -> None:
        with Cut([cluster.hosts[event.target]], cluster.stores, way):
            cluster.hold(event.hold_s)

    return run


def _cut_from_clients(way: str) -> Callable[[Cluster, Event], None]:
    def run(cluster: Cluster, event: Event) -> None:
        with Cut([cluster.hosts[event.target]], cluster.client_hosts(), way):
            cluster.hold(event.hold_s)

    return run


def _cut_client(cluster: Cluster, event: Event) -> None:
    host = cluster.clients[event.target].host
    with Cut([host], cluster.hosts):
        cluster.hold(event.hold_s)


def _isolate(cluster: Cluster, event: Event) -> None:
    host = cluster.hosts[event.target]
    with Cut([host], cluster.beside(host)):
        cluster.hold(event.hold_s)


def _stop(cluster: Cluster, event: Event) -> None:
    site = cluster.replicas[event.target]
    site.pause()
    cluster.hold(event.hold_s)
    site.resume()


def _drain(cluster: Cluster, event: Event) -> None:
    site = cluster.replicas[event.target]
    site.drain()
    cluster.hold(event.hold_s)
    site.start()


def _rolling_restart(cluster: Cluster, _event: Event) -> None:
    for site in cluster.replicas[: cluster.form.replicas]:
        site.drain()
        site.start()
        cluster.advance()


def _scale(cluster: Cluster, event: Event) -> None:
    """The spare ones come; then they leave, and one of the others with them; then that one is back."""
    spare = cluster.replicas[cluster.form.replicas :]
    one = cluster.replicas[event.target]
    cluster.start(spare)
    cluster.tell_proxy()
    cluster.hold(event.hold_s)
    cluster.advance()
    for site in [*spare, one]:
        site.drain()
        cluster.hold(event.hold_s)
        cluster.advance()
    cluster.tell_proxy()
    one.start()
    cluster.tell_proxy()
    cluster.hold(event.hold_s)


def _step_clock(cluster: Cluster, event: Event) -> None:
    clock = cluster.clocks[event.target]
    for shift_s in (2 * HOUR_S, -2 * HOUR_S):
        clock.shift(shift_s)
        cluster.hold(event.hold_s)


def _fail_over(cluster: Cluster, event: Event) -> None:
    node = cluster.store.kill(event.target)
    cluster.hold(event.hold_s)
    cluster.store.restore(node)


def _kill_in_failover(cluster: Cluster, event: Event) -> None:
    """Two at once: a replica dies while the store fails over."""
    site = cluster.replicas[event.target % cluster.form.replicas]
    site.kill()
    node = cluster.store.kill(event.target)
    cluster.store.restore(node)
    site.start()


_BEYOND = (1.3 * LEASE_S, 2 * LEASE_S)
_BRIEF = (0.2, 0.8)
_REBALANCE = (3.0, 5.0)

FAULTS = (
    Fault(Kind("kill -9 of a replica", "replica", *_BRIEF), _kill),
    Fault(Kind("a machine vanishes", "replica", *_BEYOND), _vanish),
    Fault(Kind("SIGSTOP beyond the lease", "replica", *_BEYOND), _stop),
    Fault(Kind("drain and restart", "replica", *_BRIEF), _drain),
    Fault(Kind("rolling restart of all", "all"), _rolling_restart),
    Fault(Kind("scale to five, to two, to three", "replica", *_REBALANCE), _scale),
    Fault(Kind("replica cut from the store", "replica", *_BEYOND), _cut_from_store("both")),
    Fault(Kind("replica gets nothing of the store", "replica", *_BEYOND), _cut_from_store("to")),
    Fault(Kind("store gets nothing of a replica", "replica", *_BEYOND), _cut_from_store("from")),
    Fault(Kind("replica cut from the clients", "replica", *_BEYOND), _cut_from_clients("both")),
    Fault(
        Kind("replica gets nothing of the clients", "replica", *_BEYOND), _cut_from_clients("to")
    ),
    Fault(Kind("clients get nothing of a replica", "replica", *_BEYOND), _cut_from_clients("from")),
    Fault(Kind("a client cut from all replicas", "client", *_BEYOND), _cut_client),
    Fault(Kind("replica cut from everything", "replica", *_BEYOND), _isolate),
    Fault(Kind("a clock steps by hours", "replica", *_BRIEF), _step_clock),
    Fault(Kind("kill -9 of a primary of the store", "shard", *_BRIEF), _fail_over),
    Fault(Kind("kill -9 of a replica and of a primary", "shard"), _kill_in_failover),
)

BY_NAME = {fault.kind.name: fault for fault in FAULTS}
