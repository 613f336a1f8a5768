"""`python -m bench.posting JSON`: a load of POST requests on connections that stay, in a process of its own.

Loads for a while unmeasured, prints a line, loads for the measured time, prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass

from . import loops
from .figures import percentile

_WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Posts:
    """What to load with.

    Attributes:
        address, path, content_type: where, and what.
        body: of each request, as latin-1.
        seconds: measured.
        connections: each has one request in flight.
    """

    address: str
    path: str
    content_type: str
    body: str
    seconds: float
    connections: int = 16

    @property
    def request(self) -> bytes:
        """The whole request."""
        body = self.body.encode("latin-1")
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.address}\r\n"
            f"content-type: {self.content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def main() -> None:
    """Loads. Raises RuntimeError if a request is refused."""
    posts = Posts(**json.loads(sys.argv[1]))
    times_s: list[float] = []
    began = asyncio.Event()
    begin_s = time.perf_counter() + _WARM_UP_S
    end_s = begin_s + posts.seconds

    async def one() -> None:
        host, _, port = posts.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        while (sent_s := time.perf_counter()) < end_s:
            writer.write(posts.request)
            await _answer(reader)
            if sent_s >= begin_s:
                began.set()
                times_s.append(time.perf_counter() - sent_s)
        writer.close()

    async def tell() -> None:
        await began.wait()
        print(flush=True)

    await asyncio.gather(tell(), *(one() for _ in range(posts.connections)))
    figures = {
        "requests_per_s": len(times_s) / posts.seconds,
        "p50_ms": percentile(times_s, 0.5) * 1e3,
        "p99_ms": percentile(times_s, 0.99) * 1e3,
    }
    print(json.dumps(figures), flush=True)


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    status, _, fields = head.partition(b"\r\n")
    (size,) = (
        int(line.partition(b":")[2])
        for line in fields.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    body = await reader.readexactly(size)
    if b" 200 " not in status:
        raise RuntimeError(f"{status!r}: {body[:500]!r}")


if __name__ == "__main__":
    loops.run(main())
