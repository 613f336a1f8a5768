"""Attach over WebSocket, where it is not as over gRPC: who may connect, frames, and how it ends."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.sockets import PROTOCOL, SocketCall, token_protocol
from support.wire import StreamTalk, settled
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from carousel_protos.v1 import carousel_pb2 as pb

TOKENS = {hashlib.sha256(b"token-one").digest(): "one"}
HELLO = pb.AttachRequest(hello=pb.Hello(client="test"))
OPEN = pb.OpenSessionRequest(model="echo", session_id="chosen")
UNAUTHENTICATED = 4016
INVALID_ARGUMENT = 4003


def url(door):
    return f"ws://127.0.0.1:{door.port}/api/attach"


@pytest.fixture
async def guarded(start_doors):
    return await start_doors(tokens=TOKENS)


async def talk(call):
    stream = StreamTalk(call)
    await call.write(HELLO)
    await stream.hear("welcome")
    return stream


async def test_a_session_goes_on_over_the_other_transport(door):
    rows = np.arange(3 * WIDTH, dtype="<f4").reshape(3, 1, WIDTH)
    call = SocketCall(url(door))
    over_http = await talk(call)
    await over_http.bind(1, open=OPEN)
    assert await over_http.step(1, 1, rows[0]) == rows[0].tobytes()
    call.cancel()
    await settled(lambda: door.engine.bound == [])
    over_grpc = await door.stubs.attach()
    assert (await over_grpc.bind(7, session_id="chosen")).applied == 1
    assert await over_grpc.step(7, 2, rows[1]) == rows[1].tobytes()
    over_http = await talk(SocketCall(url(door)))
    await over_http.bind(1, session_id="chosen")
    assert (await over_grpc.hear("unbound")).unbound.handle == 7, "the newer one has it"
    assert await over_http.step(1, 3, rows[2]) == rows[2].tobytes()


async def test_the_server_chooses_the_protocol_that_the_client_offers(door):
    async with connect(url(door), subprotocols=["other", PROTOCOL]) as socket:
        assert socket.subprotocol == PROTOCOL
    async with connect(url(door)) as socket:
        assert socket.subprotocol is None
        await socket.send(HELLO.SerializeToString())
        assert pb.AttachResponse.FromString(await socket.recv()).HasField("welcome")


@pytest.mark.parametrize(
    "options",
    [
        {"additional_headers": {"authorization": "Bearer token-one"}},
        {"subprotocols": [PROTOCOL, token_protocol("token-one")]},
    ],
    ids=["header", "subprotocol"],
)
async def test_a_token_comes_as_a_header_or_as_a_subprotocol(guarded, options):
    call = SocketCall(url(guarded), **options)
    await talk(call)
    assert (await call.connect()).subprotocol == PROTOCOL, "never the one with the token"


@pytest.mark.parametrize(
    "protocols",
    [[PROTOCOL], [PROTOCOL, token_protocol("wrong")], [PROTOCOL, "carousel.bearer.%"]],
    ids=["none", "wrong", "not base64"],
)
async def test_strangers_hear_why(guarded, protocols):
    call = SocketCall(url(guarded), subprotocols=protocols)
    assert await call.close_code() == UNAUTHENTICATED
    assert call.problem["reason"] == "TOKEN_INVALID"
    assert guarded.metrics.refusals == ["TOKEN_INVALID"]
    assert guarded.engine.seen == []


async def test_a_page_of_another_site_is_refused(start_doors):
    door = await start_doors(http_cors_origins=("https://ours.example",))
    with pytest.raises(InvalidStatus) as caught:
        await connect(url(door), origin="https://theirs.example")
    assert caught.value.response.status_code == 403
    for origin in ("https://ours.example", f"http://127.0.0.1:{door.port}"):
        async with connect(url(door), origin=origin):
            pass


async def test_a_text_frame_ends_the_stream_by_name(door):
    call = SocketCall(url(door))
    await talk(call)
    await (await call.connect()).send("hello")
    assert await call.close_code() == INVALID_ARGUMENT
    assert call.problem["reason"] == "MALFORMED_MESSAGE"
    assert call.problem["status"] == 400


async def test_a_path_that_is_none_is_refused(door):
    with pytest.raises(InvalidStatus):
        await connect(url(door) + "s")


async def test_connections_count_until_they_end(start_doors):
    door = await start_doors(max_connections=2)
    limits = door.doors._http._limits
    async with connect(url(door)), connect(url(door)):
        assert len(limits.open) == 2
        with pytest.raises((OSError, InvalidHandshake)):
            await connect(url(door))
        await settled(lambda: door.metrics.turned["connections"] == 1)
    await settled(lambda: not limits.open)
    async with connect(url(door)):
        assert len(limits.open) == 1


async def test_a_server_that_stops_says_so(door):
    call = SocketCall(url(door))
    stream = await talk(call)
    await stream.bind(1, open=OPEN)
    await door.doors.drain(5.0)
    await stream.hear("drain")
    await door.doors.stop(5.0)
    assert await call.close_code() == 4014
    assert call.problem["reason"] == "DRAINING"
