"""gRPC's targets, as far as a client must understand them."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

_SCHEMES_OF_ADDRESSES = ("dns", "ipv4", "ipv6", "passthrough")
LOCAL_SCHEMES = ("unix", "unix-abstract", "vsock")


def host_and_port(target: str) -> tuple[str, int] | None:
    """The first host and port of a target; None if it names none, as unix:PATH does."""
    scheme, colon, rest = target.partition(":")
    if colon and scheme in _SCHEMES_OF_ADDRESSES and not rest.isdecimal():
        target = rest.removeprefix("//").partition("/")[2] if rest.startswith("//") else rest
    first = unquote(target).partition(",")[0]
    host, _, port = first.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_local(target: str) -> bool:
    """Whether a target is this machine's own: a loopback address, localhost or a local socket."""
    if target.partition(":")[0] in LOCAL_SCHEMES:
        return True
    found = host_and_port(target)
    if found is None:
        return False
    host = found[0].lower().removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
