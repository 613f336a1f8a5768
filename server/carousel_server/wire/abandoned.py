"""Clients that start calls and abandon them at once, by the thousand (HTTP/2 rapid reset).

Each such call costs the server far more than the client. gRPC limits how many are open, not how many are
started. So the server counts them by address and closes the connections that go on beyond a budget.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

BURST_S = 20.0
"""An address that was quiet may abandon at once what its rate allows in this time."""

_MOST_ADDRESSES = 4096


class AbandonedCalls:
    """A budget of abandoned calls for each address. On the loop only."""

    def __init__(
        self, per_s: float, least_burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`per_s`: calls a second and address, on average; 0 never refuses.

        `least_burst`: what a client may abandon at once in any case, such as all its calls in flight.
        """
        self._per_s = per_s
        self._burst = max(per_s * BURST_S, float(least_burst))
        self._clock = clock
        # By address: what is left of its budget, and when that was counted.
        self._left: dict[str, tuple[float, float]] = {}

    def exceeds(self, peer: str) -> bool:
        """Counts one abandoned call of `peer` (as gRPC names it). True if its budget is used up."""
        if not self._per_s:
            return False
        address, now_s = address_of(peer), self._clock()
        left, counted_s = self._left.pop(address, (self._burst, now_s))
        left = min(self._burst, left + (now_s - counted_s) * self._per_s)
        if len(self._left) >= _MOST_ADDRESSES:
            del self._left[next(iter(self._left))]  # the one that has been quiet for longest
        self._left[address] = (max(0.0, left - 1.0), now_s)
        return left < 1.0


def address_of(peer: str) -> str:
    """The address without its port: "ipv4:10.0.0.7" for "ipv4:10.0.0.7:5123"."""
    return peer.rpartition(":")[0] or peer


def close_connection(peer: str, port: int) -> bool:
    """Closes the connection of `peer` to our `port`. True if one was found.

    gRPC has no call for this. Its sockets are ordinary ones of this process: shutting one down ends the
    connection as if the client had gone. The search costs a system call for each open file.
    """
    kind, _, rest = peer.partition(":")
    host, _, peer_port = unquote(rest).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not peer_port.isdigit():
        return False
    wanted = (host.strip("[]"), int(peer_port))
    try:
        numbers = [int(path.name) for path in Path("/dev/fd").iterdir()]
    except OSError:  # no such folder here, or no file descriptor left to read it with
        return False
    return any(_shut(number, wanted, port) for number in numbers)


def _shut(number: int, wanted: tuple[str, int], port: int) -> bool:
    """Shuts file `number` down if it is the socket between `wanted` and our `port`."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return False
        # A copy, so that the file cannot become another one between the question and the answer.
        with socket.socket(fileno=os.dup(number)) as copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6):
                return False
            if copy.getsockname()[1] == port and _plain(copy.getpeername()) == wanted:
                copy.shutdown(socket.SHUT_RDWR)
                return True
    return False


def _plain(address: tuple[str, int]) -> tuple[str, int]:
    """Host and port of a socket's address; IPv4 on an IPv6 socket as gRPC shows it."""
    return address[0].removeprefix("::ffff:"), address[1]
