"""Whether an address can be listened on, asked before the long work of loading models begins."""

from __future__ import annotations

import errno
import socket

_FIXES = {
    errno.EADDRINUSE: "is another server running there? choose another port, or 0 for a free one",
    errno.EADDRNOTAVAIL: "name an address of this machine",
    errno.EACCES: "ports below 1024 are not for everybody: choose another port",
}


class ListenError(OSError):
    """An address cannot be listened on. The first line says the cause, the second the fix."""


def check_address(host: str, port: int) -> None:
    """Binds the address for a moment. Somebody may still take it before it is listened on for good.

    Args:
        host: a name, an IPv4 address, or an IPv6 address with or without brackets.
        port: 0 for any.

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
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        # Connections of a server that has just ended do not keep the next one from its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise listen_error(host, port, error) from error


def listen_error(host: str, port: int, error: OSError) -> ListenError:
    """What a failed bind means to whoever chose the address."""
    fix = _FIXES.get(error.errno or 0, "choose another address")
    cause = error.strerror or str(error)
    return ListenError(f"cannot listen on {shown(host, port)}: {cause.lower()}\n{fix}")


def shown(host: str, port: int) -> str:
    """Host and port as one text; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
