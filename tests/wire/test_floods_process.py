"""A flood of headers on a real server, with and without front ends: others go on, memory stays."""

from __future__ import annotations

import asyncio
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from support.http2 import RST_STREAM, Http2
from support.server import LSTM, ServerProcess
from support.wire import Stubs

import carousel
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire.native.library import missing

MANY = 17_408
PROBES = 10
MOST_GROWTH_KB = 150_000


def memory_kb(pid: int) -> int:
    """Resident memory of a process and its children."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(status.split("VmRSS:")[1].split()[0])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(memory_kb(int(child)) for child in children)


async def refused(hostile: Http2, calls: int) -> None:
    """Waits until so many calls were refused, or the connection was ended for them, as nghttp2 does."""
    ways = {
        asyncio.create_task(hostile.until(RST_STREAM, calls)),
        asyncio.create_task(hostile.ended.wait()),
    }
    done, left = await asyncio.wait(ways, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    assert done, f"only {hostile.seen[RST_STREAM]} of {calls} calls were refused"


@pytest.mark.parametrize("front_ends", [0, 1])
@pytest.mark.parametrize("transport", ["python", "native"])
async def test_headers_without_messages(models_dir: Path, front_ends: int, transport: str) -> None:
    if transport == "native" and (reason := missing()):
        pytest.skip(reason)
    with ServerProcess(models_dir, front_ends=front_ends, transport=transport) as server:
        async with Stubs(server.target) as stubs, Http2(server.port) as hostile:
            await stubs.open(LSTM)
            before_kb = memory_kb(server.process.pid)
            with suppress(OSError):
                await hostile.headers(MANY)
            await refused(hostile, MANY - 2 * 1280)
            models = await stubs.models.ListModels(pb.ListModelsRequest())
            assert len(models.models) == 3
            with carousel.Client(server.target) as client:
                assert await asyncio.to_thread(client.health) is not None
            assert memory_kb(server.process.pid) - before_kb < MOST_GROWTH_KB
        assert "Traceback" not in server.text


async def test_probes_over_http_are_answered_beside_a_flood_of_calls(models_dir: Path) -> None:
    def probe(url: str) -> int:
        with urllib.request.urlopen(url) as answer:
            return int(answer.status)

    async def flood(port: int, begun: asyncio.Event) -> None:
        while True:
            async with Http2(port) as hostile:
                with suppress(OSError):
                    while not hostile.ended.is_set():
                        await hostile.headers(100)
                        await asyncio.sleep(0)
                        if hostile.seen[RST_STREAM] > 100:
                            begun.set()
            begun.set()

    with ServerProcess(models_dir) as server:
        base, begun = server.metrics_url.removesuffix("/metrics"), asyncio.Event()
        flooding = asyncio.create_task(flood(server.port, begun))
        await asyncio.wait_for(begun.wait(), 60)
        for _ in range(PROBES):
            for path in ("/livez", "/readyz"):
                assert await asyncio.to_thread(probe, base + path) == 200
        assert not flooding.done()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
