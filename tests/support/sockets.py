"""A client's side of Attach over WebSocket, with the face of a call of grpc.aio."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from carousel_protos.errors import DOMAIN
from carousel_protos.v1 import carousel_pb2 as pb

PROTOCOL = "carousel.v1"
FAILED = 4000


def token_protocol(token: str) -> str:
    """The subprotocol with which a page sends its token."""
    return f"carousel.bearer.{base64.urlsafe_b64encode(token.encode()).decode().rstrip('=')}"


class SocketCall:
    """One connection. `problem` is the last text frame: the problem details of an error."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        self._options = {"subprotocols": [PROTOCOL], "max_size": None, **options}
        self._socket: ClientConnection | None = None
        self.problem: dict[str, Any] = {}

    async def connect(self) -> ClientConnection:
        if self._socket is None:
            self._socket = await connect(self._url, **self._options)
        return self._socket

    async def write(self, message: pb.AttachRequest | bytes) -> None:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        socket = await self.connect()
        with suppress(ConnectionClosed):
            await socket.send(data)

    async def read(self) -> Any:
        """The next reply, or EOF."""
        socket = await self.connect()
        while True:
            try:
                data = await socket.recv()
            except ConnectionClosed:
                return grpc.aio.EOF
            if isinstance(data, bytes):
                return pb.AttachResponse.FromString(data)
            self.problem = json.loads(data)

    async def done_writing(self) -> None:
        socket = await self.connect()
        await socket.close()

    def cancel(self) -> None:
        """Cuts the connection."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def close_code(self) -> int:
        """The code that the connection was closed with."""
        while await self.read() is not grpc.aio.EOF:
            pass
        assert self._socket is not None
        assert self._socket.close_code is not None
        return self._socket.close_code

    async def code(self) -> grpc.StatusCode:
        """The canonical code that the close code stands for."""
        number = max(0, await self.close_code() - FAILED)
        return next(one for one in grpc.StatusCode if one.value[0] == number)

    async def trailing_metadata(self) -> Any:
        """What gRPC would have in its trailers, as far as tests look at it."""
        problem = self.problem
        text = f"{problem['detail']}. {problem['fix']}"
        status = Status(code=(await self.code()).value[0], message=text)
        reason, metadata = problem["reason"], problem["metadata"]
        found: list[Message] = [details.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)]
        if (retry_after_s := problem.get("retry_after_s")) is not None:
            retry = details.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(retry_after_s * 1e9))
            found.append(retry)
        for one in found:
            status.details.add().Pack(one)
        return (("grpc-status-details-bin", status.SerializeToString()),)
