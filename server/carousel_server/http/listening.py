"""Sockets that listen on all addresses of a host, with one port."""

from __future__ import annotations

import socket

from carousel_server.wire import listen_error

SETTING = "http-port"
"""The setting's name on the command line."""

_BACKLOG = 2048


def listening_sockets(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Sockets that are bound to `host` and `port`; 0 takes a free port.

    Args:
        host: a name, an IPv4 address, or an IPv6 address with or without brackets.
        port: of all of them.
        shared: whether other processes of this server listen there too.

    Raises:
        ListenError: the address cannot be listened on.
    """
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        one = socket.socket(family, kind, protocol)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6 and len(found) > 1:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = port or (sockets[0].getsockname()[1] if sockets else 0)
            one.bind((address[0], port, *address[2:]))
            one.listen(_BACKLOG)
            one.setblocking(False)
        except OSError as error:
            one.close()
            failure = error
        else:
            sockets.append(one)
    if not sockets:
        assert failure is not None, "a host has an address"
        raise listen_error(host, port, failure, SETTING) from failure
    return sockets
