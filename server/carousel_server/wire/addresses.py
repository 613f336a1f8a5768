"""Whether an address can be listened on, asked before the long work of loading models begins."""

from __future__ import annotations

import errno
import socket
from typing import Any

_FIXES = {
    errno.EADDRINUSE: "is another server running there? choose another --{setting}, or 0 for a free one",
    errno.EADDRNOTAVAIL: "name an address of this machine",
    errno.EACCES: "ports below 1024 are not for everybody: choose another --{setting}",
}


class ListenError(OSError):
    """An address cannot be listened on. The first line says the cause, the second the fix."""


def check_address(host: str, port: int, setting: str = "port") -> None:
    """Binds the address for a moment. Somebody may still take it before it is listened on for good.

    Args:
        host: a name, an IPv4 address, or an IPv6 address with or without brackets.
        port: 0 for any.
        setting: what it is called where it is set, for people.

    Raises:
        ListenError: the address is taken, not this machine's, or not known.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(
            f"cannot listen on {shown(host, port)}: no such name\nname an address of this machine"
        ) from error
    failures: list[OSError] = []
    for family, kind, protocol, _, address in found:
        try:
            _bind(family, kind, protocol, address)
        except OSError as error:
            # Of a name's two addresses one may not exist here, such as ::1 in a container without IPv6;
            # one that is taken would get calls that are meant for us.
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise listen_error(host, port, error, setting) from error
            failures.append(error)
    if len(failures) == len(found):
        raise listen_error(host, port, failures[0], setting) from failures[0]


def _bind(family: int, kind: int, protocol: int, address: Any) -> None:
    with socket.socket(family, kind, protocol) as probe:
        # Connections of a server that has just ended do not keep the next one from its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def listen_error(host: str, port: int, error: OSError, setting: str = "port") -> ListenError:
    """What a failed bind means to whoever chose the address."""
    fix = _FIXES.get(error.errno or 0, "choose another address").format(setting=setting)
    cause = error.strerror or str(error)
    return ListenError(f"cannot listen on {shown(host, port)}: {cause.lower()}\n{fix}")


def shown(host: str, port: int) -> str:
    """Host and port as one text; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
