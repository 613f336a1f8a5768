"""What only the native transport does: HTTP/2 that grpc.aio's C core would see to."""

from __future__ import annotations

import asyncio
import struct

import grpc
import pytest
from support.http2 import DATA, HEADERS, PING, RST_STREAM, Http2
from support.wire import refused, settled

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports
from carousel_server.wire.native.library import missing

GOAWAY = 7


@pytest.fixture
async def native(start_wire):
    """A wire on the native transport with small limits."""

    if reason := missing():
        pytest.skip(reason)

    async def start(**options):
        return await start_wire(transport="native", **options)

    return start


def framed(*messages):
    """Messages of gRPC as bytes of DATA frames."""
    return b"".join(b"\0" + struct.pack(">I", len(one)) + one for one in messages)


def hello():
    return pb.AttachRequest(hello=pb.Hello(client="raw")).SerializeToString()


ATTACH = "/carousel.v1.InferenceService/Attach"


async def test_calls_beyond_the_limit_of_a_connection_are_refused_and_counted(native):
    wire = await native(max_streams=2, max_calls_per_connection=2)
    async with Http2(wire.server.port) as client:
        await client.headers(7, path=ATTACH)
        await client.until(RST_STREAM, 3)
        await settled(lambda: wire.metrics.turned["calls"] == 3)
    assert (await wire.stubs.models.ListModels(pb.ListModelsRequest())).models, "others go on"


async def test_connections_beyond_the_limit_are_closed_and_counted(native):
    wire = await native(max_connections=2)
    async with Http2(wire.server.port), Http2(wire.server.port), Http2(wire.server.port) as third:
        await asyncio.wait_for(third.ended.wait(), 30)
        await settled(lambda: wire.metrics.turned["connections"] == 1)


async def test_who_breaks_the_protocol_is_cut_off_and_counted(native):
    wire = await native()
    await wire.stubs.models.ListModels(pb.ListModelsRequest())
    async with Http2(wire.server.port) as client:
        await client.data(5, b"of a stream that was never opened")
        await asyncio.wait_for(client.ended.wait(), 30)
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await settled(lambda: wire.metrics.turned["protocol"] >= 1)
    assert (await wire.stubs.models.ListModels(pb.ListModelsRequest())).models, "others go on"


async def test_who_pings_too_often_is_told_to_calm_down(native):
    wire = await native()
    async with Http2(wire.server.port) as client:
        for _ in range(5):
            await client.ping()
        await client.until(GOAWAY)
        await settled(lambda: wire.metrics.turned["pings"] == 1)


async def test_a_busy_client_may_ping(native):
    wire = await native()
    async with Http2(wire.server.port) as client:
        stream = await client.headers(path=ATTACH)
        await client.data(stream, framed(hello()))
        for _ in range(5):
            await client.ping()
            await client.data(stream, framed(pb.AttachRequest(acks=pb.Acks()).SerializeToString()))
        await client.until(PING, 5)
        assert not client.seen[GOAWAY]


async def test_messages_may_be_cut_and_joined_in_any_way(native):
    wire = await native()
    binds = [
        pb.AttachRequest(
            bind=pb.Bind(handle=handle, open=pb.OpenSessionRequest(model="echo"))
        ).SerializeToString()
        for handle in range(1, 4)
    ]
    whole = framed(hello(), *binds)
    async with Http2(wire.server.port) as client:
        stream = await client.headers(path=ATTACH)
        for start in range(0, len(whole), 3):
            await client.data(stream, whole[start : start + 3])
        await client.until(DATA, 1)
        await settled(lambda: client.received[stream].count(b"echo") >= 3)


async def test_a_long_message_passes_a_narrow_window(native):
    wire = await native(max_message_bytes=8 << 20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.stubs.inference.Infer(pb.InferRequest(model="echo", inputs=b"\0" * (3 << 20)))
    assert f"{(3 << 20) // 16} steps" in caught.value.details(), "it was read to its end"


async def test_a_message_beyond_the_limit_is_refused_by_name_and_not_read(native):
    wire = await native(max_message_bytes=4096)
    too_large = pb.InferRequest(model="echo", inputs=b"\0" * (3 << 20))
    error = await refused(wire.stubs.inference.Infer(too_large))
    assert (error.reason, error.metadata["limit"]) == ("MESSAGE_TOO_LARGE", "4096")
    assert int(error.metadata["bytes"]) > 3 << 20
    assert wire.metrics.refusals == ["MESSAGE_TOO_LARGE"]
    assert (await wire.stubs.models.ListModels(pb.ListModelsRequest())).models, "others go on"


async def test_what_came_before_a_message_beyond_the_limit_is_taken(native):
    wire = await native(max_message_bytes=4096)
    stream = await wire.stubs.attach()
    open_echo = pb.OpenSessionRequest(model="echo")
    await stream.call.write(pb.AttachRequest(bind=pb.Bind(handle=1, open=open_echo)))
    too_long = pb.OpenSessionRequest(model="m" * 5000)
    await stream.call.write(pb.AttachRequest(bind=pb.Bind(handle=2, open=too_long)))
    assert (await stream.end()).reason == "MESSAGE_TOO_LARGE"
    # The session itself is closed again, if the stream ends before its client has learned the id.
    await settled(lambda: any(isinstance(seen, ports.Open) for seen in wire.engine.seen))


async def test_compressed_messages_are_refused_by_name(native):
    wire = await native()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.stubs.models.ListModels(
            pb.ListModelsRequest(page_size=1), compression=grpc.Compression.Gzip
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "identity" in caught.value.details()


async def test_what_is_no_grpc_gets_an_answer_of_http(native):
    wire = await native()
    async with Http2(wire.server.port) as client:
        await client.headers(more={"content-type": "text/plain"})
        await client.until(HEADERS)
        assert wire.metrics.begun == []


async def test_an_unknown_method_is_named_so(native):
    wire = await native()
    call = wire.stubs.channel.unary_unary("/carousel.v1.ModelService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_whose_deadline_passes_is_told_its_status(native):
    """A reset would be CANCELLED to a client whose own timer is later than the server's."""
    wire = await native()
    wire.engine.hold()
    async with Http2(wire.server.port) as client:
        infer = "/carousel.v1.InferenceService/Infer"
        stream = await client.headers(path=infer, more={"grpc-timeout": "50m"})
        request = pb.InferRequest(model="echo", inputs=b"\0" * 16).SerializeToString()
        await client.data(stream, b"\0" + len(request).to_bytes(4, "big") + request)
        await client.until(HEADERS)
    await settled(lambda: ("Infer", "unary", "CANCELLED") in wire.metrics.ended)


async def test_a_call_whose_deadline_passes_is_ended(native):
    wire = await native()
    wire.engine.hold()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.stubs.inference.Infer(
            pb.InferRequest(model="echo", inputs=b"\0" * 16), timeout=0.2
        )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await settled(lambda: ("Infer", "unary", "CANCELLED") in wire.metrics.ended)
