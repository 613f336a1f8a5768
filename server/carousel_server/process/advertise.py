"""The address under which other replicas and clients reach this server: the setting `advertise`."""

from __future__ import annotations

import ipaddress
import re
import socket

_WHOLE = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]{1,5})$"
)


def check_advertise(address: str) -> str:
    """An address as it was set. "" is allowed.

    Raises:
        ValueError: it is no host:port, or no other machine could use it.
    """
    if not address:
        return address
    found = _WHOLE.fullmatch(address)
    if found is None or not 1 <= int(found["port"]) <= 65_535:
        raise ValueError(
            f"{address!r} is no address: write host:port, such as replica-1.internal:50051 or [fd00::1]:50051"
        )
    if _is_wildcard(found["host"]):
        raise ValueError(
            f"{found['host']} means every address of a machine: write one that clients reach"
        )
    return address


def advertised(setting: str, host: str, port: int) -> str:
    """The address to announce: the setting, else the host that gRPC listens on, with the port.

    Where gRPC listens on all addresses, the machine's name stands for them.
    """
    if setting:
        return setting
    if _is_wildcard(host):
        host = socket.gethostname()
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def _is_wildcard(host: str) -> bool:
    try:
        return not host or ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_unspecified
    except ValueError:
        return False
