"""The end of an Attach stream: what it had unread is not left to the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.types import OpenSpec
from carousel_server.wire import WireOptions, attach, call
from carousel_server.wire.gate import Gate
from carousel_server.wire.outbox import Outbox


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Unread:
    """A client that reads nothing."""

    def __init__(self) -> None:
        self.writing = asyncio.Event()

    async def write(self, _message: bytes) -> None:
        self.writing.set()
        await asyncio.Event().wait()


async def said() -> AsyncIterator[bytes]:
    yield pb.AttachRequest(hello=pb.Hello()).SerializeToString()
    yield pb.AttachRequest(bind=pb.Bind(handle=1, session_id="s")).SerializeToString()
    await asyncio.Event().wait()


@pytest.mark.usefixtures("no_collector")
async def test_what_a_client_left_unread_is_freed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    outboxes: list[weakref.ref[Outbox]] = []

    def make(*args: int) -> Outbox:
        outbox = Outbox(*args)
        outboxes.append(weakref.ref(outbox))
        return outbox

    monkeypatch.setattr(attach, "Outbox", make)
    engine = FakeEngine()
    catalog = FakeCatalog(engine)
    catalog.open(engine, OpenSpec("t", "s"))
    gate = Gate(WireOptions(), CountingMetrics(), catalog.quotas)
    method = attach.Attach(catalog, WireOptions(), gate)
    call.enter(call.Call("service", "Attach", "bidi_stream", "id", tenant="t"))
    client = Unread()
    stream = asyncio.create_task(method.attach(said(), client))  # type: ignore[arg-type]
    await client.writing.wait()
    while not engine.bound:  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0)
    stream.cancel()
    with suppress(asyncio.CancelledError):
        await stream
    del stream
    engine.seen.clear()  # the fake one's commands, which name their sinks
    for _ in range(3):
        await asyncio.sleep(0)
    assert [outbox() for outbox in outboxes] == [None]
