"""A client of raw stubs, without the SDK, for tests of the wire itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as pb_grpc

from .sockets import SocketCall

DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.RetryInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.ResourceInfo,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RequestInfo,
)


class Stubs:
    """The three services over one aio channel, with a bearer token if one is given."""

    def __init__(self, target: str, token: str = "", attach_url: str = "") -> None:
        """`attach_url`: where streams of Attach go over WebSocket; without it, they go over gRPC."""
        self._attach_url = attach_url
        self._token = token
        self._socket_calls: list[SocketCall] = []
        self.channel = grpc.aio.insecure_channel(target)
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.inference = self._stub(pb_grpc.InferenceServiceStub)
        self.sessions = self._stub(pb_grpc.SessionServiceStub)
        self.models = self._stub(pb_grpc.ModelServiceStub)

    def _stub(self, kind: Any) -> Any:
        methods = vars(kind(self.channel))
        with_metadata = {n: partial(m, metadata=self.metadata) for n, m in methods.items()}
        return SimpleNamespace(**with_metadata)

    async def __aenter__(self) -> Stubs:
        return self

    async def __aexit__(self, *_: object) -> None:
        for call in self._socket_calls:
            call.cancel()
        await self.channel.close()

    def raw_unary(self, method: str) -> Any:
        """A unary method whose request is bytes."""
        return partial(self.channel.unary_unary(f"/carousel.v1.{method}"), metadata=self.metadata)

    async def open(self, model: str, session_id: str = "", **fields: Any) -> pb.Session:
        request = pb.OpenSessionRequest(model=model, session_id=session_id, **fields)
        return (await self.sessions.OpenSession(request)).session

    async def attach(self, *, hello: bool = True, **options: Any) -> StreamTalk:
        call = self._attach(**options)
        talk = StreamTalk(call)
        if hello:
            await talk.say(hello=pb.Hello(client="test"))
            assert (await talk.hear()).HasField("welcome")
        return talk

    def _attach(self, **options: Any) -> Any:
        if not self._attach_url:
            return self.inference.Attach(**options)
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        headers.update(options.get("metadata", ()))
        self._socket_calls.append(SocketCall(self._attach_url, additional_headers=headers))
        return self._socket_calls[-1]


class StreamTalk:
    """One Attach stream, a message at a time."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def say(self, **event: Message) -> None:
        await self.call.write(pb.AttachRequest(**event))

    async def hear(self, kind: str | None = None) -> pb.AttachResponse:
        """The next reply, which must be of `kind` if that is given."""
        reply = await self.call.read()
        assert reply is not grpc.aio.EOF, f"the stream ended: {await self.call.code()}"
        if kind is not None:
            assert reply.WhichOneof("event") == kind, reply
        return reply

    async def bind(self, handle: int, **target: Any) -> pb.Session:
        await self.say(bind=pb.Bind(handle=handle, **target))
        bound = (await self.hear("bound")).bound
        assert bound.handle == handle
        return bound.session

    async def step(self, handle: int, seq: int, rows: np.ndarray) -> bytes:
        """Steps one session and waits for the outputs."""
        await self.block([handle], [seq], rows[None])
        outputs = (await self.hear("outputs")).outputs
        assert (list(outputs.handles), list(outputs.first_seqs)) == ([handle], [seq])
        return outputs.outputs

    async def block(
        self, handles: list[int], first_seqs: list[int], rows: np.ndarray, **fields: Any
    ) -> None:
        """Sends rows [handles, steps, ...]."""
        block = pb.Block(
            handles=handles,
            first_seqs=first_seqs,
            steps=rows.shape[1],
            inputs=rows.tobytes(),
            **fields,
        )
        await self.say(block=block)

    async def end(self) -> Any:
        """Waits for the end of the stream. Returns the decoded error, or None for OK."""
        with suppress(grpc.aio.AioRpcError):
            while await self.call.read() is not grpc.aio.EOF:
                pass
        if await self.call.code() is grpc.StatusCode.OK:
            return None
        trailers = dict(await self.call.trailing_metadata() or ())
        return unpack(Status.FromString(trailers["grpc-status-details-bin"]))


def unpack(status: Status) -> SimpleNamespace:
    """A status with its details by name: `.info`, `.retry`, `.bad_request`, … or None."""
    found: dict[str, Message] = {}
    for packed in status.details:
        for kind in DETAILS:
            if packed.Is(kind.DESCRIPTOR):
                assert kind.DESCRIPTOR.name not in found, "a detail is there twice"
                found[kind.DESCRIPTOR.name] = detail = kind()
                packed.Unpack(detail)
    assert len(found) == len(status.details), "an unknown detail"
    info = found["ErrorInfo"]
    assert info.domain == "carousel"
    return SimpleNamespace(
        code=status.code,
        message=status.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        retry=found.get("RetryInfo"),
        bad_request=found.get("BadRequest"),
        resource=found.get("ResourceInfo"),
        quota=found.get("QuotaFailure"),
        request=found.get("RequestInfo"),
    )


def error_of(error: grpc.RpcError) -> SimpleNamespace:
    """The typed error of a failed call."""
    status = rpc_status.from_call(error)
    assert status is not None, f"an error without details: {error}"
    return unpack(status)


async def refused(call: Any) -> SimpleNamespace:
    """Awaits a unary call that must fail. Returns its typed error."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return unpack(_status(error))
    raise AssertionError(f"the call did not fail: {reply}")


def _status(error: grpc.aio.AioRpcError) -> Status:
    trailers = dict(error.trailing_metadata())
    data = trailers.get("grpc-status-details-bin")
    assert data is not None, f"an error without details: {error}"
    status = Status.FromString(data)
    assert status.code == error.code().value[0]
    return status


async def settled(condition: Callable[[], object]) -> None:
    """Runs the loop of server and client until `condition` is true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)
