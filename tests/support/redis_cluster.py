"""A real cluster of three primaries and their replicas on loopback, for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from .redis import RedisServer, free_port

WAIT_S = 120.0
_SLOTS = 16_384


class ClusterServers:
    """Nodes on loopback. The first `primaries` have the slots, and the others are their replicas.

    Use it as a context manager.
    """

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = 3,
        replicas: int = 3,
        program: str = "redis-server",
        appendfsync: str = "everysec",
    ) -> None:
        self._primaries = primaries
        self.nodes: list[RedisServer] = []
        self._bus_ports: list[int] = []
        for number in range(primaries + replicas):
            own = folder / f"node{number}"
            own.mkdir()
            self._bus_ports.append(free_port())
            options = ("--cluster-enabled", "yes", "--cluster-port", str(self._bus_ports[-1]))
            patience = ("--cluster-node-timeout", "3000", "--cluster-replica-validity-factor", "0")
            loose = ("--cluster-require-full-coverage", "no")
            self.nodes.append(
                RedisServer(
                    own, *options, *patience, *loose, program=program, appendfsync=appendfsync
                )
            )

    def __enter__(self) -> ClusterServers:
        for node in self.nodes:
            node.start()
        self._join()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()

    @property
    def url(self) -> str:
        """The URL for a store. It names the first two nodes."""
        places = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://{places}"

    def owner(self, key: str) -> RedisServer:
        """The primary of a key now, as one of the living nodes knows it."""
        port = self._slots()[key_slot(key.encode())]
        return next(node for node in self.nodes if node.port == port)

    def fail_over(self, node: RedisServer) -> None:
        """Kills a primary, and waits until its replica has its slots."""
        node.kill()
        wait_until(lambda: node.port not in self._slots(), "no replica took over")

    def move(self, key: str, to: RedisServer, *, meanwhile: Callable[[], None]) -> None:
        """Moves the slot of a key, key by key. `meanwhile` runs when half of the slot's keys have moved."""
        slot, source = key_slot(key.encode()), self.owner(key)
        with source.client() as here, to.client() as there:
            here_id, there_id = _id(here), _id(there)
            there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", here_id)
            here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", there_id)
            keys = here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1_000_000)
            half = len(keys) // 2
            for number, one in enumerate(keys):
                if number == half:
                    meanwhile()
                here.execute_command("MIGRATE", "127.0.0.1", to.port, one, 0, 60_000)
            while left := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
                for one in left:
                    here.execute_command("MIGRATE", "127.0.0.1", to.port, one, 0, 60_000)
            for client in (there, here):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", there_id)
        wait_until(lambda: self._slots()[slot] == to.port, "the slot did not move")

    def client_of(self, key: str) -> redis.Redis:
        """A client of a key's primary."""
        return self.owner(key).client()

    def _join(self) -> None:
        ports = dict(zip(self.nodes, self._bus_ports, strict=True))
        first, *others = self.nodes
        with first.client() as client:
            for node in others:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, ports[node])
        share = _SLOTS // self._primaries
        ids = []
        for number, node in enumerate(self.nodes[: self._primaries]):
            last = _SLOTS - 1 if number == self._primaries - 1 else (number + 1) * share - 1
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
                ids.append(_id(client))
        wait_until(self._all_know_all, "the nodes do not find each other")
        for number, node in enumerate(self.nodes[self._primaries :]):
            with node.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", ids[number % self._primaries])
        wait_until(self._is_ready, "the cluster is not ready")

    def _all_know_all(self) -> bool:
        told = [_asked(node, "CLUSTER INFO") for node in self.nodes]
        return all(
            one["cluster_known_nodes"] == str(len(self.nodes))
            and one["cluster_slots_assigned"] == str(_SLOTS)
            for one in told
        )

    def _is_ready(self) -> bool:
        return all(
            _asked(node, "CLUSTER INFO")["cluster_state"] == "ok" for node in self.nodes
        ) and all(
            _asked(node, "INFO")["master_link_status"] == "up"
            for node in self.nodes[self._primaries :]
        )

    def _slots(self) -> Sequence[int]:
        """The port of the primary of each slot, as the majority of the living nodes knows it."""
        votes: dict[tuple[int, ...], int] = {}
        for node in self.nodes:
            if node.is_running:
                ports = [0] * _SLOTS
                for first, last, primary, *_ in _asked(node, "CLUSTER SLOTS"):
                    ports[first : last + 1] = [primary[1]] * (last + 1 - first)
                votes[tuple(ports)] = votes.get(tuple(ports), 0) + 1
        return max(votes, key=lambda ports: votes[ports])


def wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    """Waits until something holds."""
    until = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


def _id(client: redis.Redis) -> str:
    return str(client.execute_command("CLUSTER MYID").decode())


def _asked(node: RedisServer, command: str) -> Any:
    with node.client() as client:
        return client.execute_command(command)
