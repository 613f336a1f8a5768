"""Sends broken conversations to the native transport: `python -m tests.fuzz.transport --seconds 60`.

Each is a recorded one that a seed has changed. The server must stay up, and a good client must be served
meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random

import grpc
from support.fake_engine import ECHO_TOKENS, CountingMetrics, FakeCatalog, FakeEngine
from support.wire import Stubs

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire import WireOptions, WireServer

from .streams import Conversation, Recorder, frames_of, mutated

_AT_ONCE = 8
"""Bad clients beside each other."""

_PATIENCE_S = 60
"""How long the good client waits for an answer."""

_LISTENS_S = 0.05
"""How long a bad client listens before it leaves, at most."""


async def record(port: int) -> list[Conversation]:
    """Conversations of gRPC's own client, one a connection."""
    async with Recorder(port) as recorder:
        for talk in (_unary, _whole_sequences, _attached):
            async with Stubs(f"127.0.0.1:{recorder.port}") as stubs:
                await talk(stubs)
        return [frames_of(bytes(one)) for one in recorder.recorded]


async def _unary(stubs: Stubs) -> None:
    for _ in range(3):
        await stubs.models.ListModels(pb.ListModelsRequest())
    await stubs.open("echo", "fuzzed")
    await stubs.sessions.CloseSession(pb.CloseSessionRequest(session_id="fuzzed"))


async def _whole_sequences(stubs: Stubs) -> None:
    for steps in (1, 5_000):
        with suppress(grpc.aio.AioRpcError):  # the longer one has too many steps
            await stubs.inference.Infer(pb.InferRequest(model="echo", inputs=b"\0" * 16 * steps))


async def _attached(stubs: Stubs) -> None:
    call = stubs.inference.Attach()
    await call.write(pb.AttachRequest(hello=pb.Hello(client="fuzz")))
    for handle in (1, 2):
        opened = pb.OpenSessionRequest(model="echo")
        await call.write(pb.AttachRequest(bind=pb.Bind(handle=handle, open=opened)))
        await call.read()
    await call.write(pb.AttachRequest(unbind=pb.Unbind(handle=1)))
    await call.done_writing()
    while await call.read():
        pass


async def attack(port: int, pieces: Sequence[bytes]) -> None:
    """Sends pieces, listens shortly, and leaves."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LISTENS_S):
                    while await reader.read(1 << 16):
                        pass
    writer.transport.abort()


async def fuzz(seconds: float, seed: int) -> int:
    """Attacks for so long; returns the number of attacks. Raises if the good client is not served."""
    catalog = FakeCatalog(FakeEngine(), FakeEngine(ECHO_TOKENS))
    server = WireServer(catalog, WireOptions(transport="native"), CountingMetrics())
    await server.start()
    conversations = await record(server.port)
    numbers, ends_s = itertools.count(seed), time.monotonic() + seconds
    attacks = 0

    async def bad() -> None:
        nonlocal attacks
        while time.monotonic() < ends_s:
            random = Random(next(numbers))
            await attack(server.port, mutated(random, conversations))
            attacks += 1

    async def good() -> None:
        async with Stubs(f"127.0.0.1:{server.port}") as stubs:
            while time.monotonic() < ends_s:
                await stubs.models.ListModels(pb.ListModelsRequest(), timeout=_PATIENCE_S)
                await stubs.inference.Infer(
                    pb.InferRequest(model="echo", inputs=b"\0" * 16), timeout=_PATIENCE_S
                )

    async with asyncio.TaskGroup() as group:
        group.create_task(good())
        for _ in range(_AT_ONCE):
            group.create_task(bad())
    await server.stop(0)
    return attacks


def main() -> int:
    """Returns the exit status; a fault of the server ends the process before."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.transport")
    parser.add_argument("--seconds", type=float, default=60, help="how long to attack")
    parser.add_argument("--seed", type=int, default=1, help="of the first attack; each adds one")
    chosen = parser.parse_args()
    attacks = asyncio.run(fuzz(chosen.seconds, chosen.seed))
    print(f"{attacks} attacks, seeds from {chosen.seed}; the good client was served throughout")
    return 0


if __name__ == "__main__":
    sys.exit(main())
