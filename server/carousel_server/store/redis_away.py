"""Servers of a cluster that do not answer, and the thread that waits for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from redis.exceptions import RedisError

from .redis_node import connection_options
from .redis_target import Address, Target
from .redis_topology import Topology

log = logging.getLogger(__name__)

_PROBE_S = 0.1
_PROBE_TIMEOUT_S = 0.5


class Away:
    """Servers that do not answer. One thread adds to it, and its own thread takes out.

    A server is no longer away once it answers, or has no slots any more.
    """

    def __init__(self, target: Target, topology: Topology) -> None:
        self._topology = topology
        # Its own connections, with a time-out that does not depend on the leases.
        self._probes = Topology(target, connection_options(_PROBE_TIMEOUT_S))
        self._addresses: frozenset[Address] = frozenset()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def addresses(self) -> Collection[Address]:
        """Those that are away."""
        return self._addresses

    def __contains__(self, address: Address) -> bool:
        return address in self._addresses

    def add(self, address: Address) -> None:
        """A server does not answer."""
        with self._lock:
            if address in self._addresses or self._closed.is_set():
                return
            log.error("%s does not answer: its sessions wait", self._topology.node(address).place)
            self._addresses |= {address}
            if self._thread is None:
                self._thread = threading.Thread(target=self._wait, name="store-probe", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Ends the thread. Idempotent."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join(2 * _PROBE_TIMEOUT_S)
        self._probes.close()

    def _wait(self) -> None:
        """Probes until all have come back."""
        while not self._closed.wait(_PROBE_S):
            back = [one for one in self._addresses if self._is_back(one)]
            with self._lock:
                self._addresses -= set(back)
                if not self._addresses:
                    self._thread = None
                    return

    def _is_back(self, address: Address) -> bool:
        try:
            self._probes.refresh(avoid=self._addresses)
        except RedisError:
            return False  # no server tells the slots
        node = self._probes.node(address)
        if address in self._probes.slots.primaries:
            try:
                if "master" not in str(node.client.info("replication")["role"]):
                    return False
            except RedisError:
                return False
            log.warning("%s answers again", node.place)
        else:
            log.warning("%s has no slots any more: other servers have them", node.place)
        self._topology.slots = self._probes.slots
        return True
