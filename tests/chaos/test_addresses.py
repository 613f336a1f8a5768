"""A server that comes back under another address is found by its name within seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from support.names import NameServer

import carousel
from carousel.testing import FakeModel, FakeServer

from .proxy import Proxy

# Half of the time after which gRPC by itself asks for an address again.
POLICY = carousel.RetryPolicy(reconnect_s=15.0)
ROW = [1.0, 2.0]
FORMER, LATTER = "127.0.0.1", "127.0.0.2"

SUM = FakeModel(
    "sum",
    lambda x, state: (np.array([state + x.sum()], np.float32), state + np.float32(x.sum())),
    features=2,
    outputs=1,
    initial=np.float32(0),
)


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer(FORMER) as names:
        yield names


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer(SUM, durable=True) as fake:
        yield fake


def port_of(fake: FakeServer) -> int:
    return int(fake.target.rpartition(":")[2])


def test_the_blocking_client_finds_it(fake: FakeServer, names: NameServer) -> None:
    with Proxy(port_of(fake), FORMER) as former:
        target = f"dns://127.0.0.1:{names.port}/carousel.test:{former.port}"
        client = carousel.Client(target, timeout_s=60, retries=POLICY)
        session = client.session("sum")
        assert session.step(ROW) == [3]
    with Proxy(port_of(fake), LATTER, former.port):
        names.address = LATTER
        assert session.step(ROW) == [6]
        assert client.infer("sum", [ROW]).tolist() == [[3]]
        client.close()


async def test_the_asyncio_client_finds_it(fake: FakeServer, names: NameServer) -> None:
    with Proxy(port_of(fake), FORMER) as former:
        target = f"dns://127.0.0.1:{names.port}/carousel.test:{former.port}"
        client = carousel.AsyncClient(target, timeout_s=60, retries=POLICY)
        session = await client.session("sum")
        assert await session.step(ROW) == [3]
    await asyncio.sleep(0)
    with Proxy(port_of(fake), LATTER, former.port):
        names.address = LATTER
        assert await session.step(ROW) == [6]
        await client.close()
