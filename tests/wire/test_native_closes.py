"""How the native transport closes connections: the client gets the last bytes, whatever it still sends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct

import grpc
import pytest
from support.certificates import make_certificates
from support.http2 import DATA, HEADERS, SETTINGS, Http2, frame, header_block
from support.native import SMALL, Passing
from support.wire import settled

from carousel_server.wire.native.library import NativeLimits, missing
from carousel_server.wire.native.server import NativeServer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PING, GOAWAY, WINDOW_UPDATE, UNKNOWN = 6, 7, 8, 0x42
INITIAL_WINDOW = 4
PROTOCOL_ERROR, ENHANCE_YOUR_CALM = 1, 11
PATIENCE_S = 60
BEGIN = PREFACE + frame(SETTINGS, 0, 0)
BAD = frame(DATA, 0, 5, b"of a stream that was never opened")
FOR_EVER_MS = 600_000

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
async def start():
    """Starts a NativeServer with limits, one handler and a certificate or none; returns it and its port."""
    servers = []

    async def start(answer=None, tls=None, **limits):
        server = NativeServer(Passing(), NativeLimits(**{**SMALL, **limits}))
        if answer is not None:
            method = grpc.stream_stream_rpc_method_handler(answer)
            handlers = grpc.method_handlers_generic_handler("test.Test", {"Do": method})
            server.add_generic_rpc_handlers([handlers])
        if tls is not None:
            server.use_tls(*tls, None)
        port = server.bind("127.0.0.1", 0, shared=False)
        await server.start()
        servers.append(server)
        return server, port

    yield start
    for server in servers:
        await server.stop(0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate and its key."""
    folder = make_certificates(tmp_path_factory.mktemp("tls"))
    return (folder / "server.pem").read_bytes(), (folder / "server.key").read_bytes()


def trusting():
    """A context of clients that accepts any certificate, and does not take a cut for an end."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def frames(data):
    """Kinds and payloads of frames."""
    found = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def said(payload):
    """The code and the text of a GOAWAY."""
    return int.from_bytes(payload[4:8], "big"), payload[8:]


def talk(port, payload, context=None):
    """Sends everything, then reads to the end. A reset of the connection raises."""
    client = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    if context is not None:
        client = context.wrap_socket(client, server_hostname="x", suppress_ragged_eofs=False)
    with client:
        client.sendall(payload)
        received = b""
        while piece := client.recv(1 << 16):
            received += piece
        return frames(received)


@pytest.mark.parametrize("secret", [False, True], ids=["clear", "tls"])
async def test_who_breaks_the_protocol_is_told_though_it_goes_on_sending(
    start, certificate, secret
):
    _, port = await start(tls=certificate if secret else None)
    more = BAD + frame(PING, 0, 0, b"12345678") * (1 << 16)
    for _ in range(5):
        told = await asyncio.to_thread(talk, port, BEGIN + more, trusting() if secret else None)
        assert [said(payload)[0] for kind, payload in told if kind == GOAWAY] == [PROTOCOL_ERROR]


async def test_who_speaks_another_protocol_is_told(start):
    server, port = await start()
    told = await asyncio.to_thread(talk, port, b"GET / HTTP/1.1\r\n\r\n" + b"x" * (1 << 20))
    assert [said(payload)[0] for kind, payload in told if kind == GOAWAY] == [PROTOCOL_ERROR]
    assert server.counters().bad_connections == 1


async def test_who_pings_too_often_is_told_so_in_the_words_of_grpc(start):
    _, port = await start()
    pings = BEGIN + frame(PING, 0, 0, b"12345678") * (1 << 14)
    told = await asyncio.to_thread(talk, port, pings)
    assert (ENHANCE_YOUR_CALM, b"too_many_pings") in [
        said(payload) for kind, payload in told if kind == GOAWAY
    ]


async def test_a_server_that_stops_sends_the_ends_of_calls_to_clients_that_send(start):
    async def answer(requests, context):
        await context.write(b"x")
        await asyncio.Event().wait()

    server, port = await start(answer)
    call = frame(HEADERS, 4, 1, header_block({
        ":method": "POST", ":scheme": "http", ":authority": "x", ":path": "/test.Test/Do",
        "content-type": "application/grpc",
    }))  # fmt: skip
    # More than the transport reads at a time, so that some is not read when it stops.
    data = frame(UNKNOWN, 0, 0, b"x" * 1_000) * 2_000
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, BEGIN + call)
        received = b""
        while HEADERS not in dict(frames(received)):
            received += await loop.sock_recv(client, 1 << 16)
        sending = asyncio.create_task(loop.sock_sendall(client, data))
        stopping = asyncio.create_task(server.stop(0))
        while piece := await asyncio.wait_for(loop.sock_recv(client, 1 << 16), PATIENCE_S):
            received += piece
        await sending
    await stopping
    kinds = [kind for kind, _ in frames(received)]
    assert kinds.count(HEADERS) == 2, "the trailers have come"
    assert GOAWAY in kinds


async def test_calls_of_a_connection_that_closes_end_at_once(start):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(requests, context):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    server, port = await start(answer, linger_ms=FOR_EVER_MS)
    async with Http2(port) as client:
        await client.headers(path="/test.Test/Do")
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        await client.raw(BAD)
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
        assert server.counters().connections == 1, "it still waits for the client's end"


async def test_a_client_that_does_not_leave_is_cut_off_in_time(start):
    server, port = await start(linger_ms=100)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(BEGIN + BAD)
        await settled(lambda: server.counters().bad_connections == 1)
        await settled(lambda: server.counters().connections == 0)


async def test_a_client_that_sends_without_end_is_cut_off_by_bytes(start):
    server, port = await start(linger_ms=FOR_EVER_MS)

    def flood():
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
            client.sendall(BEGIN + BAD)
            sent = 0
            try:
                while sent < 1 << 30:
                    sent += client.send(b"x" * (1 << 16))
            except (BrokenPipeError, ConnectionResetError):
                pass
            return sent

    assert await asyncio.to_thread(flood) < 1 << 28
    await settled(lambda: server.counters().connections == 0)


async def test_connections_that_close_count_towards_the_limit(start):
    server, port = await start(connections=3, linger_ms=FOR_EVER_MS)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    try:
        for client in clients:
            client.sendall(BEGIN + BAD)
        await settled(lambda: server.counters().bad_connections == 3)
        with socket.create_connection(("127.0.0.1", port)):
            await settled(lambda: server.counters().turned_away == 1)
        assert server.counters().connections == 3
        clients.pop().close()
        await settled(lambda: server.counters().connections == 2)
    finally:
        for client in clients:
            client.close()


async def test_a_stop_waits_only_so_long_for_clients_that_do_not_read(start):
    async def answer(requests, context):
        await context.write(b"x" * (8 << 20))

    server, port = await start(answer, linger_ms=200)
    wide = struct.pack(">HI", INITIAL_WINDOW, (1 << 31) - 1)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(
            PREFACE
            + frame(SETTINGS, 0, 0, wide)
            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
            + frame(HEADERS, 5, 1, header_block({
                ":method": "POST", ":scheme": "http", ":authority": "x", ":path": "/test.Test/Do",
                "content-type": "application/grpc",
            }))
        )  # fmt: skip
        await settled(lambda: server.counters().calls == 1)
        await asyncio.wait_for(server.stop(0), PATIENCE_S)
        assert server.counters().connections == 0
