"""A name server for one name, whose address a test changes."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Self

_IPV4 = 1
_HEADER_BYTES = 12


class NameServer:
    """Answers every query for an IPv4 address with `address`, and others with nothing.

    Attributes:
        address: the name's address now.
        port: its UDP port on loopback.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="name-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            query, asker = self._socket.recvfrom(2048)
            if not query:
                return
            self._socket.sendto(self._answer(query), asker)

    def _answer(self, query: bytes) -> bytes:
        name_end = query.index(b"\0", _HEADER_BYTES) + 1
        (kind,) = struct.unpack("!H", query[name_end : name_end + 2])
        answer = b""
        if kind == _IPV4:  # a pointer to the name in the question, then class IN, no time to live
            answer = b"\xc0\x0c" + struct.pack("!HHIH", _IPV4, 1, 0, 4)
            answer += socket.inet_aton(self.address)
        counts = struct.pack("!HHHH", 1, bool(answer), 0, 0)
        return query[:2] + b"\x81\x80" + counts + query[_HEADER_BYTES : name_end + 4] + answer
