"""A network of hosts with addresses of their own, and the cuts between them.

A host is a network namespace. All are on one switch, a bridge in the harness's own namespace, so the harness
reaches each of them. A cut drops packets on arrival, without an answer, as a broken cable does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

_NET = "10.77.0"
_CONTROL = f"{_NET}.1"

_FILTER = """
table inet cuts {
  set lost { type ipv4_addr; }
  chain arriving { type filter hook input priority 0; ip saddr @lost drop; }
}
"""


class Host:
    """A machine of the network: a name of at most 9 letters, and an address."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{_NET}.{number}"
        self._clock = ""

    @property
    def inside(self) -> list[str]:
        """A command that runs another one on this host, in its own place."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *([self._clock] if self._clock else [])]

    def shift_uptime(self, seconds: int) -> None:
        """Processes that start here later have a monotonic clock that is ahead by so much."""
        file = Path(f"/run/clocks/{self.name}")
        file.touch()
        offsets = ["--monotonic", str(seconds), "--boottime", str(seconds)]
        subprocess.run(["unshare", f"--time={file}", "--fork", *offsets, "true"], check=True)
        self._clock = f"--time={file}"

    def loses(self, others: Iterable[Host]) -> None:
        """What others send to this host is lost from now on."""
        self._change("add", others)

    def gets(self, others: Iterable[Host]) -> None:
        """What others send arrives again."""
        self._change("delete", others)

    def _change(self, verb: str, others: Iterable[Host]) -> None:
        addresses = ", ".join(sorted({other.address for other in others} - {self.address}))
        if addresses:
            self.run("nft", f"{verb} element inet cuts lost {{ {addresses} }}")

    def run(self, *command: str, text: str = "") -> None:
        """Runs a command here, to its end."""
        ran = subprocess.run(
            [*self.inside, *command], input=text, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, f"{command} on {self.name}: {ran.stderr}"


class Network:
    """The switch, and the hosts on it, in the order in which they came."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        _ip(
            "link add switch type bridge",
            f"addr add {_CONTROL}/24 dev switch",
            "link set switch up",
        )

    def add(self, name: str) -> Host:
        """Another host."""
        host = Host(name, len(self.hosts) + 2)
        self.hosts.append(host)
        _ip(f"netns add {name}")
        _ip(
            f"link add to-{name} type veth peer name eth0 netns {name}",
            f"link set to-{name} master switch up",
        )
        host.run("ip", "-batch", "-", text=_UP.format(address=host.address))
        host.run("nft", "-f", "-", text=_FILTER)
        return host


class Cut:
    """Packets between two groups of hosts are lost. Use as a context manager.

    Args:
        some, others: the groups.
        way: "both", or "to" for what goes from the others to `some` only, or "from" for the other way.
    """

    def __init__(self, some: Iterable[Host], others: Iterable[Host], way: str = "both") -> None:
        self._some, self._others, self._way = list(some), list(others), way
        assert way in ("both", "to", "from")

    def __enter__(self) -> None:
        self._change(Host.loses)

    def __exit__(self, *_: object) -> None:
        self._change(Host.gets)

    def _change(self, verb: object) -> None:
        assert callable(verb)
        if self._way != "from":
            for host in self._some:
                verb(host, self._others)
        if self._way != "to":
            for host in self._others:
                verb(host, self._some)


_UP = "addr add {address}/24 dev eth0\nlink set eth0 up\nlink set lo up\n"


def _ip(*lines: str) -> None:
    ran = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True
    )
    assert ran.returncode == 0, f"ip: {ran.stderr}"
