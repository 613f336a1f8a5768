"""`python -m bench.pressing JSON`: the load of the overload figure, in a process of its own.

Opens its sessions, loads for a while unmeasured, prints a line, loads for the measured time, prints one
JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import grpc
import numpy as np

from . import loops
from .raw import RawStream, channel, reason_of_call

_WARM_UP_S = 1.5
_LEAVE_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Pressure:
    """What to load with.

    Attributes:
        address, model, row_bytes: where, and what.
        seconds: measured.
        streams, sessions: well-behaved streams, and sessions of each.
        rate_per_s: steps per second of all these streams in an open loop; 0 is a closed loop.
        timeout_s: deadline of each block in an open loop.
        unread: streams that send as the others do and never read; with an eighth of the sessions, since
            what they are answered is work, and no goodput.
        token: of the tenant that loads; "" is a server without tenants.
    """

    address: str
    model: str
    row_bytes: int
    seconds: float
    streams: int = 16
    sessions: int = 64
    rate_per_s: float = 0.0
    timeout_s: float = 0.5
    unread: int = 0
    token: str = ""

    @property
    def period_s(self) -> float:
        """Between two blocks of a stream."""
        return self.streams * self.sessions / self.rate_per_s

    def stream(self, connection: grpc.aio.Channel, sessions: int) -> RawStream:
        """A new stream with sessions of its own."""
        return RawStream(connection, self.model, sessions, bytes(self.row_bytes), self.token)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Counts at an instant."""

    rows: int
    sent: int
    refused: Counter[str]


async def press(pressure: Pressure) -> dict[str, float]:
    """Opens, loads, measures."""
    async with channel(pressure.address) as connection:
        streams = [pressure.stream(connection, pressure.sessions) for _ in range(pressure.streams)]
        for stream in streams:
            await stream.open()
        ended: Counter[str] = Counter()
        stop = asyncio.Event()
        readers = [asyncio.create_task(_read(stream, ended)) for stream in streams]
        unread = [asyncio.create_task(_never_read(pressure, ended)) for _ in range(pressure.unread)]
        writers = [
            asyncio.create_task(_write(stream, pressure, number / len(streams), stop))
            for number, stream in enumerate(streams)
        ]
        await asyncio.sleep(_WARM_UP_S)
        print("{}", flush=True)
        measured = await _measure(streams, pressure.seconds)
        measured |= {f"ended: {why or 'well'}": float(count) for why, count in ended.items()}
        stop.set()  # a cancelled write would end its stream
        for task in unread:
            task.cancel()
        async with asyncio.timeout(_LEAVE_WITHIN_S):
            await asyncio.gather(*writers, *unread, return_exceptions=True)
            await asyncio.gather(*(stream.leave() for stream in streams))
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return measured


async def _measure(streams: Sequence[RawStream], seconds: float) -> dict[str, float]:
    """What comes back in a while of a load that runs."""
    began_s, before, cpu_s = time.perf_counter(), _seen(streams), time.process_time()
    for stream in streams:
        stream.cursors.latencies_s.clear()
    await asyncio.sleep(seconds)
    took_s, after = time.perf_counter() - began_s, _seen(streams)
    cpu_s = time.process_time() - cpu_s
    latencies_s = [a for stream in streams for a in stream.cursors.latencies_s]
    p50_ms, p99_ms = (
        np.percentile(np.concatenate(latencies_s), (50, 99)) * 1e3 if latencies_s else (0.0, 0.0)
    )
    refused = after.refused - before.refused
    return {
        "goodput_rows_per_s": (after.rows - before.rows) / took_s,
        "offered_rows_per_s": (after.sent - before.sent) / took_s,
        "p50_ms": float(p50_ms),
        "p99_ms": float(p99_ms),
        "cores_of_the_load": cpu_s / took_s,
        **{f"refused: {reason}, per s": count / took_s for reason, count in refused.items()},
    }


def _seen(streams: Sequence[RawStream]) -> _Seen:
    refused: Counter[str] = Counter()
    for stream in streams:
        refused.update(stream.cursors.refused)
    rows = sum(stream.cursors.rows for stream in streams)
    return _Seen(rows, sum(stream.cursors.offered for stream in streams), refused)


async def _read(stream: RawStream, ended: Counter[str]) -> None:
    """Takes what comes until the end, which should not come."""
    try:
        while await stream.take():
            pass
    except grpc.RpcError as error:
        ended[reason_of_call(error)] += 1
    else:
        ended[await stream.why_ended()] += 1


async def _write(stream: RawStream, pressure: Pressure, phase: float, stop: asyncio.Event) -> None:
    """Sends until told to stop."""
    with suppress(grpc.RpcError, asyncio.InvalidStateError):  # `_read` tells why it ended
        if pressure.rate_per_s:
            await _open_loop(stream, pressure, phase, stop)
        else:
            await _closed_loop(stream, stop)


async def _closed_loop(stream: RawStream, stop: asyncio.Event) -> None:
    """One step of each session on its way, as many as are free in one block."""
    cursors = stream.cursors
    while not stop.is_set():
        free = np.flatnonzero(cursors.sent == cursors.answered)
        if 2 * len(free) > len(cursors.sent):
            await stream.send(free, time.perf_counter())
        await stream.taken()


async def _open_loop(
    stream: RawStream, pressure: Pressure, phase: float, stop: asyncio.Event
) -> None:
    """A block a period, whatever comes back; only what has no room in its window is held back."""
    due_s = time.perf_counter() + phase * pressure.period_s
    while not stop.is_set():
        await asyncio.sleep(due_s - time.perf_counter())
        if len(chosen := stream.cursors.ready()):
            await stream.send(chosen, due_s, pressure.timeout_s)
        due_s += pressure.period_s


async def _never_read(pressure: Pressure, ended: Counter[str]) -> None:
    """Sends as the others do and reads nothing, over and over, on connections of its own."""
    sessions = max(pressure.sessions // 8, 1)
    everybody = np.arange(sessions)
    while True:
        async with channel(pressure.address) as connection:
            stream = pressure.stream(connection, sessions)
            await stream.open(idle_ttl_s=5)
            due_s = time.perf_counter()
            try:
                while True:
                    await asyncio.sleep(due_s - time.perf_counter())
                    await stream.send(everybody, due_s, pressure.timeout_s)
                    due_s += pressure.period_s
            except (grpc.RpcError, asyncio.InvalidStateError):
                ended[f"unread, {await stream.why_ended()}"] += 1


def main() -> int:
    """Reads the pressure from the command line. Returns the exit code."""
    pressure = Pressure(**json.loads(sys.argv[1]))
    result = loops.run(press(pressure))
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
