"""The servers that a target names: one, a list of them, or a name that is looked up."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from ._errors import FieldInvalidError

DNS = "dns:///"
HOW_TO = (
    "host:port for one server, a:50051,b:50051 for several, dns:///name:50051 for all behind a name"
)

_OF_GRPC = ("ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:")
"""Schemes of gRPC whose targets may have a comma."""

_ITEM = re.compile(r"(?P<host>[^\s:/,\[\]]+|\[[^\s\[\]]+\]):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Target:
    """What the application gave, checked.

    Attributes:
        text: the target itself.
        addresses: the servers; none if they are looked up.
        host, port: of the name that is looked up. "" and 0 if none is.
    """

    text: str
    addresses: tuple[str, ...] = ()
    host: str = ""
    port: int = 0

    @property
    def several(self) -> bool:
        """Whether there may be more than one server."""
        return len(self.addresses) != 1

    @property
    def first(self) -> str:
        """One address of the target, to try a handshake at."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.addresses[0] if self.addresses else f"{host}:{self.port}"


def target_of(text: str) -> Target:
    """Reads a target. One without a comma, and not `dns:///`, is gRPC's own affair.

    Raises:
        FieldInvalidError: a list has an empty item, one twice, one without a port or one with a scheme; or
            `dns:///` is without host or port; or a host cannot be a name. The text says how to write it.
    """
    if not text:
        raise FieldInvalidError(f"target is empty; give {HOW_TO}")
    if text.startswith(DNS) and "," not in text:
        host, port = _host_and_port(text.removeprefix(DNS), text)
        return Target(text, host=host, port=port)
    if "," not in text or text.startswith(_OF_GRPC):
        return Target(text, (text,))
    items = [item.strip() for item in text.split(",")]
    for item in items:
        _host_and_port(item, text)
        if items.count(item) > 1:
            raise FieldInvalidError(f"target {text!r} has {item} twice; give {HOW_TO}")
    return Target(text, tuple(items))


def _host_and_port(item: str, text: str) -> tuple[str, int]:
    if not item:
        raise FieldInvalidError(f"target {text!r} has an empty item; give {HOW_TO}")
    if "//" in item or item.startswith(("dns:", *_OF_GRPC)):
        raise FieldInvalidError(
            f"target {text!r} has {item!r} in a list; a list has host:port only. Give {HOW_TO}"
        )
    found = _ITEM.fullmatch(item)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise FieldInvalidError(f"target {text!r}: {item!r} is not host:port; give {HOW_TO}")
    host = found["host"].removeprefix("[").removesuffix("]")
    try:
        host.encode("idna")
    except UnicodeError:
        raise FieldInvalidError(f"target {text!r}: {host!r} is no name; give {HOW_TO}") from None
    return host, int(found["port"])


def look_up(target: Target) -> tuple[str, ...]:
    """The addresses of all servers behind the target's name, sorted. May take some seconds.

    Raises:
        OSError: the name cannot be looked up.
    """
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    hosts = {str(address[0]) for *_, address in found}
    return tuple(
        sorted(
            f"[{host}]:{target.port}" if ":" in host else f"{host}:{target.port}" for host in hosts
        )
    )
