"""One Attach stream of `carousel.v1` without the SDK: blocks of many sessions, as thin as Python allows.

A load generator must cost less than what it loads. So the sessions of a stream are arrays, every step has
the same inputs (a repeated step is then the same step), and after a refusal a session goes on from the step
that the server names.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as rpc

UNTYPED = "UNTYPED"
"""Stands for the reason of a refusal that has none: there must not be any."""

_WINDOW = 128
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


def channel(address: str) -> grpc.aio.Channel:
    """A connection of its own, not shared with other channels of the process."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call with a token; none without one."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def reason_of(status: Status | None) -> tuple[str, Mapping[str, str]]:
    """The reason and the metadata of a refusal; UNTYPED without one."""
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Unpack(info) and info.reason:
            return info.reason, info.metadata
    return UNTYPED, {}


def reason_of_call(error: Any) -> str:
    """Why a call ended, from its RpcError."""
    try:
        return reason_of(rpc_status.from_call(error))[0]
    except ValueError:  # status and details contradict each other
        return UNTYPED


class Cursors:
    """How far the sessions of one stream are; arrays by position, which is the handle less 1.

    Attributes:
        sent: int64[n], last step sent.
        answered: int64[n], last step whose output came.
        rows: outputs that came, repeated ones left out.
        offered: steps that were sent, repeated ones counted again.
        latencies_s: of the answered rows, from the instants at which they were to be sent.
        refused: refusals by reason.
    """

    def __init__(self, sessions: int, window: int = _WINDOW) -> None:
        self.sent = np.zeros(sessions, np.int64)
        self.answered = np.zeros(sessions, np.int64)
        self.rows = 0
        self.offered = 0
        self.refused: Counter[str] = Counter()
        self.latencies_s: list[np.ndarray] = []
        self._window = window
        self._due_s = np.zeros((sessions, window), np.float64)

    def ready(self, steps: int = 1) -> np.ndarray:
        """Positions that may send `steps` more steps: the others wait for outputs."""
        return np.flatnonzero(self.sent + steps - self.answered <= self._window)

    def send(self, chosen: np.ndarray, due_s: float, steps: int = 1) -> tuple[list[int], list[int]]:
        """Takes the next `steps` steps of the chosen; returns their first seqs and their acks.

        Args:
            chosen: positions.
            due_s: when the steps were to be sent; latency is counted from there.
            steps: of each.
        """
        firsts = self.sent[chosen] + 1
        for step in range(steps):
            self._due_s[chosen, (firsts + step) % self._window] = due_s
        self.sent[chosen] += steps
        self.offered += len(chosen) * steps
        return firsts.tolist(), self.answered[chosen].tolist()

    def outputs(self, handles: Sequence[int], firsts: Sequence[int], steps: int) -> None:
        """Takes outputs."""
        now_s = time.perf_counter()
        at = np.asarray(handles) - 1
        last = np.asarray(firsts) + (steps - 1)
        fresh = np.clip(last - self.answered[at], 0, steps)
        self.rows += int(fresh.sum())
        at, last = at[fresh > 0], last[fresh > 0]
        self.latencies_s.append(now_s - self._due_s[at, last % self._window])
        self.answered[at] = last
        self.sent[at] = np.maximum(self.sent[at], last)

    def refuse(self, handle: int, seq: int, status: Status) -> None:
        """Takes a refusal: the session goes on from the step that did not run.

        A gap is the echo of a refusal before it, so it moves nothing: what was sent again since may
        be on its way.
        """
        reason, metadata = reason_of(status)
        self.refused[reason] += 1
        if handle and reason != "SEQUENCE_GAP":
            expected = int(metadata.get("expected", seq))
            if expected:
                self.sent[handle - 1] = min(self.sent[handle - 1], expected - 1)


class RawStream:
    """The stream: `open`, then `send` as often as you like, while `read` runs beside it."""

    def __init__(
        self, channel: Any, model: str, sessions: int, row: bytes, token: str = ""
    ) -> None:
        self.cursors = Cursors(sessions)
        stub: Any = rpc.InferenceServiceStub(channel)
        self._call = stub.Attach(metadata=bearer(token))
        self._model = model
        self._row = row
        self._taken = asyncio.Event()
        self._left = 0

    async def open(self, idle_ttl_s: int = 60) -> None:
        """Opens and binds the sessions, with handles from 1 on.

        Raises:
            RuntimeError: one of them was refused.
        """
        await self._call.write(pb.AttachRequest(hello=pb.Hello(client="bench")))
        count = len(self.cursors.sent)
        for handle in range(1, count + 1):
            wanted = pb.OpenSessionRequest(model=self._model, durability=pb.DURABILITY_NONE)
            wanted.idle_ttl.FromSeconds(idle_ttl_s)
            bind = pb.Bind(handle=handle, open=wanted)
            await self._call.write(pb.AttachRequest(bind=bind))
        bound = 0
        while bound < count:
            reply = await self._call.read()
            if reply is grpc.aio.EOF or reply.WhichOneof("event") == "failure":
                raise RuntimeError(f"a session was not bound: {reply}")
            bound += reply.WhichOneof("event") == "bound"

    async def send(
        self, chosen: np.ndarray, due_s: float, timeout_s: float = 0.0, steps: int = 1
    ) -> None:
        """Sends the next steps of the sessions at these positions, in one block."""
        firsts, acks = self.cursors.send(chosen, due_s, steps)
        block = pb.Block(
            handles=(chosen + 1).tolist(), first_seqs=firsts, steps=steps, acks=acks,
            inputs=self._row * (len(chosen) * steps),
        )  # fmt: skip
        if timeout_s:
            block.timeout.FromNanoseconds(int(timeout_s * 1e9))
        await self._call.write(pb.AttachRequest(block=block))

    async def take(self) -> bool:
        """Waits for one message and takes it; False at the end of the stream."""
        reply = await self._call.read()
        if reply is grpc.aio.EOF:
            return False
        self._taken.set()
        match reply.WhichOneof("event"):
            case "outputs":
                result = reply.outputs
                self.cursors.outputs(result.handles, result.first_seqs, result.steps)
            case "failure":
                failure = reply.failure
                handles = failure.handles or (failure.handle,)
                seqs = failure.seqs or (failure.seq,)
                for handle, seq in zip(handles, seqs, strict=True):
                    self.cursors.refuse(handle, seq, failure.status)
            case "unbound":
                self._left -= 1
        return True

    async def taken(self) -> None:
        """Returns once `take` has taken something since the last time."""
        await self._taken.wait()
        self._taken.clear()

    async def why_ended(self) -> str:
        """The reason for which the server has ended the stream; empty if it ended well."""
        if await self._call.code() is grpc.StatusCode.OK:
            return ""
        status = await rpc_status_of(self._call)
        return reason_of(status)[0]

    async def leave(self) -> None:
        """Asks the server to close the sessions; returns once `take` has heard of all of them."""
        self._left = len(self.cursors.sent)
        for handle in range(1, self._left + 1):
            unbind = pb.Unbind(handle=handle, close=True)
            await self._call.write(pb.AttachRequest(unbind=unbind))
        while self._left > 0:
            await self.taken()

    def cancel(self) -> None:
        """Ends the stream at once; its sessions expire."""
        self._call.cancel()


async def rpc_status_of(call: Any) -> Status | None:
    """The rich status in a call's trailing metadata."""
    for key, value in await call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return Status.FromString(value)
    return None
