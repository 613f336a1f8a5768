"""Clients that mean harm, and machines that are full: what the native transport must stand."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import struct
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from support.certificates import make_certificates
from support.http2 import DATA, HEADERS, PING, RST_STREAM, SETTINGS, Http2, frame, header_block
from support.native import SMALL, Passing
from support.wire import settled

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire import TlsFiles
from carousel_server.wire.native.library import NativeEndpoint, NativeLimits, missing
from carousel_server.wire.native.server import NativeServer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GOAWAY, WINDOW_UPDATE, CONTINUATION = 7, 8, 9
INITIAL_WINDOW = 4
PATIENCE_S = 60

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
async def wire(start_wire):
    """A wire on the native transport."""
    return await start_wire(transport="native")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate for the wire."""
    folder = make_certificates(tmp_path_factory.mktemp("tls"))
    return TlsFiles((folder / "server.pem").read_bytes(), (folder / "server.key").read_bytes())


@pytest.fixture
async def plain():
    """Starts a NativeServer with limits and one handler, `answer`; returns its port."""
    servers = []

    async def start(answer=None, **limits):
        server = NativeServer(Passing(), NativeLimits(**{**SMALL, **limits}))
        if answer is not None:
            method = grpc.stream_stream_rpc_method_handler(answer)
            handlers = grpc.method_handlers_generic_handler("test.Test", {"Do": method})
            server.add_generic_rpc_handlers([handlers])
        port = server.bind("127.0.0.1", 0, shared=False)
        await server.start()
        servers.append(server)
        return server, port

    yield start
    for server in servers:
        await server.stop(0)


async def served(wire):
    """Shows that a good client is served."""
    assert (await wire.stubs.models.ListModels(pb.ListModelsRequest())).models


def transports():
    """The transports' threads in this process."""
    tasks = Path("/proc/self/task").iterdir()
    return [task for task in tasks if (task / "comm").read_text().strip() == "native-wire"]


def spent_s():
    """Processor time of the transports' threads, in seconds."""
    total = 0
    for task in transports():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@contextmanager
def resting(what):
    """Shows that the transport's thread does not spin meanwhile. Its own time is counted, not the clock's."""
    before = spent_s()
    yield
    assert spent_s() - before < 0.06, what


async def test_a_path_that_is_no_text_costs_nobody_else_anything(wire):
    async with Http2(wire.server.port) as client:
        await client.headers(path="/\udcff\udcfe", end=True)
        await client.until(HEADERS, 1)
        await client.headers(3, end=True)
        await client.until(HEADERS, 4)
    await served(wire)


async def test_who_receives_may_ping(wire):
    async with Http2(wire.server.port) as client:
        for count in range(1, 7):
            await client.headers(end=True)
            await client.until(HEADERS, count)
            await client.ping()
            await client.until(PING, count)
        assert not client.seen[GOAWAY]


async def test_a_stalled_handshake_of_tls_keeps_nobody_busy(start_wire, certificates):
    wire = await start_wire(transport="native", tls=certificates)
    assert wire.server.port
    _, writer = await asyncio.open_connection("127.0.0.1", wire.server.port)
    with resting("a client that says nothing"):
        await asyncio.sleep(1)
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    await writer.drain()
    with resting("a client that stops inside its first message"):
        await asyncio.sleep(1)
    writer.close()


async def test_who_breaks_tls_is_counted(start_wire, certificates):
    wire = await start_wire(transport="native", tls=certificates)
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.server.port)
    writer.write(PREFACE)
    with suppress(ConnectionResetError):
        await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    await settled(lambda: wire.metrics.turned["protocol"] == 1)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", wire.server.port, ssl=context)
    writer.transport.abort()
    await wire.server.stop(0)
    assert wire.metrics.turned["protocol"] == 1, "who only leaves has broken nothing"


async def test_who_breaks_http2_is_counted_once(wire):
    async with Http2(wire.server.port) as client:
        await client.data(5, b"of a stream that was never opened")
        await asyncio.wait_for(client.ended.wait(), PATIENCE_S)
    await settled(lambda: wire.metrics.turned["protocol"] == 1)


async def test_a_process_without_descriptors_waits_and_goes_on(wire):
    await served(wire)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        lowest = os.dup(client.fileno())
        os.close(lowest)
        with resting("nothing can be accepted"):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                client.connect(("127.0.0.1", wire.server.port))
                await asyncio.sleep(1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.setblocking(False)
        client.send(PREFACE + frame(SETTINGS, 0, 0))
        answer = asyncio.get_running_loop().sock_recv(client, 9)
        assert (await asyncio.wait_for(answer, PATIENCE_S))[3] == SETTINGS


def send_all(port, payload, most, receive_buffer=4096):
    """Sends `payload` again and again and reads nothing. Returns how many bytes were taken."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", port))
        client.sendall(PREFACE + frame(SETTINGS, 0, 0))
        client.settimeout(3)
        sent = 0
        try:
            while sent < most:
                client.sendall(payload(sent))
                sent += len(payload(sent))
        except TimeoutError:
            pass
        return sent


async def test_answers_that_nobody_reads_do_not_pile_up(plain):
    server, port = await plain(calls_per_connection=1)
    block, streams = bytes([0x83, 0x86, 0x84]), iter(range(1, 1 << 30, 2))
    chunk = {}

    def refused(_):
        return b"".join(frame(HEADERS, 4, next(streams), block) for _ in range(4096))

    def once(sent):
        if sent not in chunk:
            chunk.clear()
            chunk[sent] = refused(sent)
        return chunk[sent]

    most = 32 << 20
    assert await asyncio.to_thread(send_all, port, once, most) < most, "the server stops reading"
    assert server.counters().refused_calls > 0


async def test_events_that_nobody_takes_do_not_pile_up():
    endpoint = NativeEndpoint(NativeLimits(**{**SMALL, "calls_per_connection": 100_000}))
    try:
        port = endpoint.listen("127.0.0.1", 0, shared=False)
        endpoint.start()
        block = header_block({
            ":method": "POST", ":scheme": "http", ":authority": "x", ":path": "/a/b",
            "content-type": "application/grpc", "long": "x" * 12_000,
        })  # fmt: skip
        streams = iter(range(1, 1 << 30, 2))
        chunks = {}

        def calls(sent):
            if sent not in chunks:
                chunks.clear()
                chunks[sent] = b"".join(frame(HEADERS, 4, next(streams), block) for _ in range(50))
            return chunks[sent]

        most = 96 << 20
        assert await asyncio.to_thread(send_all, port, calls, most) < most
        assert len(endpoint.take()) < 32 << 20
    finally:
        endpoint.close()


async def test_a_short_block_that_stands_for_a_long_one_is_reset(wire):
    fixed = header_block({
        ":method": "POST", ":scheme": "http", ":authority": "x", ":path": "/a/b",
        "content-type": "application/grpc",
    })  # fmt: skip
    # A field of 4,000 bytes enters the table, and each further byte names it once more.
    long = b"\x40\x01a\x7f" + bytes([(4000 - 127) % 128 + 128, (4000 - 127) // 128]) + b"x" * 4000
    async with Http2(wire.server.port) as client:
        await client.raw(frame(HEADERS, 5, 1, fixed + long + b"\xbe" * 12_000))
        await client.until(RST_STREAM)
        assert not client.seen[HEADERS]
    await served(wire)


async def test_many_short_fields_count_as_metadata(wire):
    more = {f"a{number}": "" for number in range(600)}
    async with Http2(wire.server.port) as client:
        await client.headers(more=more)
        await client.until(HEADERS)
        assert wire.metrics.begun == []


async def test_a_refused_call_cannot_be_mended_by_trailers(wire):
    async with Http2(wire.server.port) as client:
        await client.raw(
            frame(HEADERS, 4, 1, header_block({
                ":method": "POST", ":scheme": "http", ":authority": "x", ":path": "/a/b",
                "content-type": "text/plain",
            }))
            + frame(HEADERS, 5, 1, header_block({"content-type": "application/grpc"}))
        )  # fmt: skip
        await client.until(HEADERS)
        await client.ping()
        await client.until(PING)
        assert client.seen[HEADERS] == 1
        assert wire.metrics.begun == []


async def test_trailers_of_a_request_end_it(wire):
    async with Http2(wire.server.port) as client:
        stream = await client.headers()
        await client.data(stream, b"\0\0\0\0\0")
        await client.trailers(stream, {"x-checksum": "1"})
        await client.until(HEADERS, 2)
        assert b"echo" in client.received[stream]


async def test_endless_continuations_end_the_connection(wire):
    async with Http2(wire.server.port) as client:
        try:
            await client.raw(frame(HEADERS, 0, 1, b""))
            for _ in range(100):
                await client.raw(frame(CONTINUATION, 0, 1, b""))
        except OSError:
            pass
        await asyncio.wait_for(client.ended.wait(), PATIENCE_S)
    await served(wire)


async def test_who_does_not_begin_is_cut_off_though_it_drips(plain):
    _, port = await plain(handshake_ms=500)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    whole = iter(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100) * 200))

    async def drip():
        while True:
            writer.write(bytes([next(whole)]))
            await writer.drain()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(drip())
    while await asyncio.wait_for(reader.read(4096), PATIENCE_S):
        pass
    assert next(whole, None) is not None, "cut off before it had begun"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    writer.close()


async def test_an_ended_call_whose_answer_nobody_takes_is_reset(plain):
    async def answer(requests, context):
        await context.write(b"x" * 100_000)

    _, port = await plain(answer, stalled_ms=500)
    async with Http2(port, struct.pack(">HI", INITIAL_WINDOW, 0)) as client:
        await client.headers(path="/test.Test/Do", end=True)
        await client.until(RST_STREAM)
        assert client.seen[DATA] == 0


async def test_a_server_that_stops_sends_what_its_handlers_have_answered(plain):
    async def answer(requests, context):
        await context.write(b"x" * 100_000)

    server, port = await plain(answer)
    async with Http2(port, struct.pack(">HI", INITIAL_WINDOW, 0)) as client:
        stream = await client.headers(path="/test.Test/Do", end=True)
        await client.until(HEADERS)
        await client.raw(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
        stopping = asyncio.create_task(server.stop(PATIENCE_S))
        await client.until(GOAWAY)
        for sent in range(1_000, 100_001, 9_900):
            await client.raw(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 9_901)))
            await settled(lambda least=sent: len(client.received[stream]) >= least)
        await client.until(HEADERS, 2)
        await stopping
        assert len(client.received[stream]) == 5 + 100_000


async def test_a_stopped_transport_answers_and_does_nothing(plain):
    server, _ = await plain()
    before = server.counters()
    await server.stop(0)
    assert server.counters() == before
    server.use_tls(b"", b"", None)
    await server.stop(0)


async def test_a_server_that_was_never_started_leaves_its_port():
    server = NativeServer(Passing(), NativeLimits(**SMALL))
    port = server.bind("127.0.0.1", 0, shared=False)
    await server.stop(None)
    with socket.create_server(("127.0.0.1", port)) as again:
        assert again.getsockname()[1] == port


async def test_every_address_is_also_those_of_ipv4():
    endpoint = NativeEndpoint(NativeLimits(**SMALL))
    try:
        try:
            port = endpoint.listen("::", 0, shared=False)
        except OSError:
            pytest.skip("this machine has no IPv6")
        endpoint.start()
        async with Http2(port) as client:
            await client.until(SETTINGS)
    finally:
        endpoint.close()


async def test_signals_stay_with_the_interpreter(wire):
    await served(wire)
    [status] = [(task / "status").read_text() for task in transports()]
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
    assert int(blocked.split()[1], 16) >> 12 & 1, "SIGPIPE"


async def test_a_call_that_is_cut_at_the_end_may_have_run(plain):
    """CANCELLED would say to a proxy that no handler has begun it."""

    async def never(requests, context):
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    server, port = await plain(never)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream("/test.Test/Do")(iter([b"x"]))
        await begun.wait()
        await server.stop(0.1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "the server has ended the call"
