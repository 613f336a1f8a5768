"""Stores for the cluster: one Redis, or a Redis Cluster with a replica for each of its primaries."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis

from .network import Host

PORT = 6379
PATIENCE_S = 60.0
_NODE_TIMEOUT_MS = 1500
"""After which the others of a Redis Cluster take a node for dead."""

_CLUSTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_TIMEOUT_MS))
_SLOTS = 16384


class Node:
    """A redis-server on a host of its own. It keeps its data in a folder, over kills."""

    def __init__(self, host: Host, folder: Path, *options: str) -> None:
        self.host = host
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    def start(self) -> None:
        """Starts the server, and waits until it has read its data."""
        command = [*self.host.inside, "redis-server", "--port", str(PORT), "--protected-mode", "no"]
        command += ["--bind", self.host.address, "--dir", str(self._folder), "--save", ""]
        command += ["--appendonly", "yes", "--logfile", str(self._folder / "log"), *self._options]
        self._process = subprocess.Popen(command)
        until(self._answers, f"{self.host.name} does not start")

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> redis.Redis:
        """A client of this node alone."""
        return redis.Redis(self.host.address, PORT, socket_timeout=5, decode_responses=True)

    def asks(self, *command: object) -> str:
        """The answer to one command, as text."""
        with self.client() as client:
            return str(client.execute_command(*command))

    def role(self) -> str:
        """The role by its own account: "master" or "slave"; empty if it does not answer."""
        try:
            with self.client() as client:
                found = client.info("replication")
        except redis.RedisError:
            return ""
        assert isinstance(found, dict)
        return str(found["role"]) if found.get("master_link_status", "up") == "up" else ""

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class OneRedis:
    """A single Redis, which comes back with its data."""

    shards = 1

    def __init__(self, hosts: list[Host], folder: Path) -> None:
        self.nodes = [Node(hosts[0], folder / "store")]
        self.url = f"redis://{hosts[0].address}:{PORT}/0"

    def start(self) -> None:
        """Starts it."""
        self.nodes[0].start()

    def primary(self, shard: int) -> Node:
        """The node that serves a shard."""
        return self.nodes[shard]

    def kill(self, shard: int) -> Node:
        """kill -9 of a primary."""
        self.nodes[shard].kill()
        return self.nodes[shard]

    def restore(self, node: Node) -> None:
        """It comes back."""
        node.start()


class RedisCluster:
    """Primaries, each with a replica that takes over when its primary is dead.

    Args:
        hosts: one for each node, the primaries first; an even number.
        folder: for the data of all.
    """

    def __init__(self, hosts: list[Host], folder: Path) -> None:
        self.shards = len(hosts) // 2
        self.nodes = [Node(host, folder / host.name, *_CLUSTER) for host in hosts]
        addresses = ",".join(f"{host.address}:{PORT}" for host in hosts)
        self.url = f"redis+cluster://{addresses}"
        self._primaries = self.nodes[: self.shards]

    def start(self) -> None:
        """Starts all nodes, gives each primary its slots, and waits until the cluster is whole."""
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self._primaries):
            first, behind = (_SLOTS * n // self.shards for n in (number, number + 1))
            node.asks("CLUSTER", "ADDSLOTSRANGE", first, behind - 1)
            # Two nodes that begin with one epoch settle it by themselves, later and with a pause.
            node.asks("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].asks("CLUSTER", "MEET", node.host.address, PORT)
        until(lambda: all(self._knows_all(node) for node in self.nodes), "the nodes do not meet")
        for primary, replica in zip(self._primaries, self.nodes[self.shards :], strict=True):
            replica.asks("CLUSTER", "REPLICATE", primary.asks("CLUSTER", "MYID"))
        self._settle(self.nodes)

    def primary(self, shard: int) -> Node:
        """The node that serves a shard now."""
        pair = self.nodes[shard], self.nodes[shard + self.shards]
        found = [node for node in pair if node.role() == "master"]
        assert found, f"shard {shard} has no primary"
        return found[0]

    def kill(self, shard: int) -> Node:
        """kill -9 of a primary; returns when its replica has taken over."""
        node = self.primary(shard)
        node.kill()
        others = [one for one in self.nodes if one is not node]
        until(lambda: self._is_whole(others), f"no replica takes over shard {shard}")
        return node

    def restore(self, node: Node) -> None:
        """It comes back, as a replica, and has copied its primary's data."""
        node.start()
        self._settle(self.nodes)

    def _settle(self, nodes: list[Node]) -> None:
        def settled() -> bool:
            replicas = sum(node.role() == "slave" for node in nodes)
            return self._is_whole(nodes) and replicas == len(nodes) - self.shards

        until(settled, "the cluster does not become whole")

    def _knows_all(self, node: Node) -> bool:
        return f"cluster_known_nodes:{len(self.nodes)}" in _info(node)

    def _is_whole(self, nodes: list[Node]) -> bool:
        primaries = sum(node.role() == "master" for node in nodes)
        return primaries == self.shards and all("cluster_state:ok" in _info(one) for one in nodes)


Store = OneRedis | RedisCluster


def _info(node: Node) -> str:
    with node.client() as client:
        found = client.execute_command("CLUSTER INFO")
    lines = found.items() if isinstance(found, dict) else ()
    return "\n".join(f"{key}:{value}" for key, value in lines) or str(found)


def until(condition: Callable[[], bool], otherwise: str, patience_s: float = PATIENCE_S) -> None:
    """Waits for what tells nobody that it has happened."""
    give_up_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up_s, otherwise
        time.sleep(0.05)
