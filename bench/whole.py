"""`python -m bench.whole JSON`: whole sequences in an open loop, from a process of its own.

Prints one JSON object: latencies from the instants at which the sequences were to be sent.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as rpc

from . import loops
from .arrivals import Journeys, lengths, poisson
from .raw import channel, reason_of, reason_of_call

_WARM_UP_S = 1.0
_FINISH_WITHIN_S = 5.0
_OPEN_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What to send.

    Attributes:
        address, model, row_bytes: where, and what.
        sessions: one session a sequence on an Attach stream; else one Infer call a sequence.
        kind: of lengths, see `arrivals`.
        rate_per_s: sequences per second.
        seconds: measured.
        seed: of instants and lengths.
    """

    address: str
    model: str
    row_bytes: int
    sessions: bool
    kind: str
    rate_per_s: float
    seconds: float
    seed: int = 1


class Sessions:
    """Each sequence takes a session of its own, sends its steps as one block, and closes the session.

    Sessions are opened ahead of their sequences, as a gateway would; where none is open, a sequence waits.
    """

    def __init__(
        self, arrivals: Arrivals, journeys: Journeys, connection: grpc.aio.Channel
    ) -> None:
        stub: Any = rpc.InferenceServiceStub(connection)
        self._arrivals, self._journeys = arrivals, journeys
        self._call = stub.Attach()
        self._wanted = pb.OpenSessionRequest(model=arrivals.model, durability=pb.DURABILITY_NONE)
        self._to_send: deque[pb.AttachRequest] = deque()
        self._something = asyncio.Event()
        self._handle = 0
        # Handles that have a session or will have one; those of them that are being given back.
        self._bound: set[int] = set()
        self._leaving: set[int] = set()
        self._open: deque[int] = deque()
        self._waiting: deque[int] = deque()
        self._numbers: dict[int, int] = {}
        self.refused: Counter[str] = Counter()
        self.changed = asyncio.Event()
        self._say(hello=pb.Hello(client="bench"))
        for _ in range(_OPEN_AHEAD):
            self._open_another()
        self._tasks = (asyncio.create_task(self._write()), asyncio.create_task(self._read()))

    def begin(self, number: int) -> None:
        """Sends sequence `number`."""
        self._waiting.append(number)
        self._match()

    async def end(self) -> None:
        """Gives up what is on its way, and closes all sessions, which would fill the next load's slots."""
        self._waiting.clear()
        for handle in self._bound - self._leaving:
            self._leave(handle)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_WITHIN_S):
                while self._bound:
                    self.changed.clear()
                    await self.changed.wait()
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _open_another(self) -> None:
        self._handle += 1
        self._bound.add(self._handle)
        self._say(bind=pb.Bind(handle=self._handle, open=self._wanted))

    def _match(self) -> None:
        """Sends the steps of sequences that wait, as far as there are sessions."""
        while self._waiting and self._open:
            number, handle = self._waiting.popleft(), self._open.popleft()
            self._numbers[handle] = number
            steps = int(self._journeys.steps[number])
            inputs = bytes(self._arrivals.row_bytes * steps)
            self._say(block=pb.Block(handles=[handle], first_seqs=[1], steps=steps, inputs=inputs))
            self._open_another()

    def _say(self, **event: Any) -> None:
        self._to_send.append(pb.AttachRequest(**event))
        self._something.set()

    async def _write(self) -> None:
        while True:
            while self._to_send:
                await self._call.write(self._to_send.popleft())
            self._something.clear()
            await self._something.wait()

    async def _read(self) -> None:
        while (reply := await self._call.read()) is not grpc.aio.EOF:
            match reply.WhichOneof("event"):
                case "bound":
                    self._open.append(reply.bound.handle)
                    self._match()
                case "outputs":
                    self._outputs(reply.outputs)
                case "unbound":
                    self._bound.discard(reply.unbound.handle)
                    self._leaving.discard(reply.unbound.handle)
                    self.changed.set()
                case "failure":
                    self.refused[reason_of(reply.failure.status)[0]] += 1
                    self.changed.set()

    def _outputs(self, result: pb.BlockResult) -> None:
        now_s = time.perf_counter()
        for handle, first in zip(result.handles, result.first_seqs, strict=True):
            number = self._numbers.get(handle)
            if number is not None and first + result.steps > self._journeys.steps[number]:
                self._journeys.done_s[number] = now_s
                del self._numbers[handle]
                self._leave(handle)
                self.changed.set()

    def _leave(self, handle: int) -> None:
        self._leaving.add(handle)
        self._say(unbind=pb.Unbind(handle=handle, close=True))


class Calls:
    """Each sequence is one Infer call."""

    def __init__(
        self, arrivals: Arrivals, journeys: Journeys, connection: grpc.aio.Channel
    ) -> None:
        self._arrivals, self._journeys = arrivals, journeys
        stub: Any = rpc.InferenceServiceStub(connection)
        self._infer = stub.Infer
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused: Counter[str] = Counter()
        self.changed = asyncio.Event()

    def begin(self, number: int) -> None:
        """Sends sequence `number`."""
        task = asyncio.create_task(self._run(number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Gives up what is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, number: int) -> None:
        inputs = bytes(self._arrivals.row_bytes * int(self._journeys.steps[number]))
        try:
            await self._infer(pb.InferRequest(model=self._arrivals.model, inputs=inputs))
            self._journeys.done_s[number] = time.perf_counter()
        except grpc.RpcError as error:
            self.refused[reason_of_call(error)] += 1
        self.changed.set()


async def run(arrivals: Arrivals) -> dict[str, float]:
    """Sends all, waits for the rest, sums up."""
    seconds = _WARM_UP_S + arrivals.seconds
    due_s = poisson(arrivals.rate_per_s, seconds, arrivals.seed)
    async with channel(arrivals.address) as connection:
        await connection.channel_ready()
        began_s = time.perf_counter() + 0.1
        journeys = Journeys(began_s + due_s, lengths(arrivals.kind, len(due_s), arrivals.seed))
        way: Sessions | Calls = (Sessions if arrivals.sessions else Calls)(
            arrivals, journeys, connection
        )
        for number, due in enumerate(journeys.due_s.tolist()):
            if (rest_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(rest_s)
            elif not number % 16:
                await asyncio.sleep(0)  # late: still let the answers in
            way.begin(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_WITHIN_S):
                while journeys.unfinished > way.refused.total():
                    way.changed.clear()
                    await way.changed.wait()
        await way.end()
    finished_s = time.perf_counter()
    summary = journeys.summary(finished_s, began_s + _WARM_UP_S)
    refused = {f"refused: {reason}": float(count) for reason, count in way.refused.items()}
    return {"sequences_per_s": arrivals.rate_per_s, **summary, **refused}


def main() -> int:
    """Reads what to send from the command line. Returns the exit code."""
    arrivals = Arrivals(**json.loads(sys.argv[1]))
    result = loops.run(run(arrivals))
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
