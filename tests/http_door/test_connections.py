"""Connections of the door under bad manners: late, large, many, and gone."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.wire import settled

HEAD = b"GET /api/models HTTP/1.1\r\nhost: a\r\n"
POST = b"POST /api/models/echo/infer HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


async def connected(door):
    return await asyncio.open_connection("127.0.0.1", door.port)


async def read_all(reader):
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_silent_connection_is_closed(start_doors):
    door = await start_doors(message_timeout_s=0.3)
    reader, writer = await connected(door)
    assert await read_all(reader) == b""
    writer.close()


async def test_half_a_head_is_closed(start_doors):
    door = await start_doors(message_timeout_s=0.3)
    reader, writer = await connected(door)
    writer.write(HEAD)
    assert await read_all(reader) == b""
    writer.close()


async def test_a_late_body_is_refused_by_name(start_doors):
    door = await start_doors(message_timeout_s=0.3)
    reader, writer = await connected(door)
    writer.write(POST + b"content-length: 10\r\n\r\n{")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 408 " in head.splitlines()[0]
    assert b"MESSAGE_TIMEOUT" in await read_all(reader)  # and then the connection is closed
    writer.close()


async def test_an_endless_head_is_cut(door):
    reader, writer = await connected(door)
    writer.write(HEAD + b"x: " + b"a" * (80 << 10))
    answer = await read_all(reader)
    assert answer == b"" or b" 400 " in answer.splitlines()[0]
    writer.close()


async def test_too_many_headers_are_refused(door):
    reader, writer = await connected(door)
    writer.write(HEAD + b"a: b\r\n" * 300 + b"\r\n")
    assert b" 400 " in (await read_all(reader)).splitlines()[0]
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_is_refused_by_name(start_doors, chunked):
    door = await start_doors(max_message_bytes=64 << 10)
    body = b"[" * (80 << 10)

    async def parts():
        for start in range(0, len(body), 1 << 14):
            yield body[start : start + (1 << 14)]

    reply = await door.http.post(
        "/api/models/echo/infer",
        content=parts() if chunked else body,
        headers={"content-type": "application/json"},
    )
    assert (reply.status_code, reply.json()["reason"]) == (413, "MESSAGE_TOO_LARGE")
    assert reply.json()["metadata"]["limit"] == str(64 << 10)
    assert (await door.http.get("/api/models")).status_code == 200


async def test_few_characters_may_be_many_bytes(start_doors):
    """JSON of 2 characters a number is 4 bytes a number in the message, whose size counts too."""
    door = await start_doors(max_message_bytes=32 << 10)
    rows = np.zeros((2200, WIDTH), int).tolist()
    text = str(rows).replace(" ", "")
    assert len(text) < 32 << 10
    reply = await door.http.post(
        "/api/models/echo/infer",
        content=f'{{"inputs":{text}}}',
        headers={"content-type": "application/json"},
    )
    assert reply.json()["reason"] == "MESSAGE_TOO_LARGE"


async def test_an_endless_body_is_cut(start_doors):
    door = await start_doors(max_message_bytes=4 << 10)
    reader, writer = await connected(door)
    writer.write(POST + b"transfer-encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"

    async def without_end():
        while True:
            writer.write(piece)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await without_end()
    del reader


async def test_connections_have_a_limit(start_doors):
    door = await start_doors(max_connections=2)
    held = [await connected(door) for _ in range(2)]
    for _, writer in held:
        writer.write(HEAD)
        await writer.drain()
    await settled(lambda: len(door.doors._http._limits.open) == 2)
    reader, writer = await connected(door)
    assert await read_all(reader) == b""
    await settled(lambda: door.metrics.turned["connections"] == 1)
    for _, one in (*held, (reader, writer)):
        one.close()
    await settled(lambda: not door.doors._http._limits.open)
    assert (await door.http.get("/api/models")).status_code == 200


async def test_a_drip_of_requests_on_one_connection(door):
    """Pipelined requests are answered in order."""
    reader, writer = await connected(door)
    writer.write((HEAD + b"\r\n") * 3)
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()


async def test_no_page_of_another_site_may_read(start_doors):
    closed, opened = await start_doors(), await start_doors(http_cors_origins=("https://a.test",))
    headers = {"origin": "https://a.test"}
    assert (
        "access-control-allow-origin"
        not in (await closed.http.get("/api/models", headers=headers)).headers
    )
    reply = await opened.http.get("/api/models", headers=headers)
    assert reply.headers["access-control-allow-origin"] == "https://a.test"
    other = await opened.http.get("/api/models", headers={"origin": "https://b.test"})
    assert "access-control-allow-origin" not in other.headers
    asked = {**headers, "access-control-request-method": "POST"}
    flight = await opened.http.options("/api/models/echo/infer", headers=asked)
    assert flight.status_code == 200


async def test_a_call_at_the_limit_is_refused_by_name(start_doors):
    door = await start_doors(max_calls=1)
    door.engine.hold()
    rows = {"inputs": [[0.0] * WIDTH]}
    waiting = asyncio.ensure_future(door.http.post("/api/models/echo/infer", json=rows))
    await settled(lambda: door.wire.surroundings.limits._calls.running == 1)
    reply = await door.http.get("/api/models")
    assert (reply.status_code, reply.json()["reason"]) == (429, "TOO_MANY_CALLS")
    assert reply.headers["retry-after"] == "1"
    door.engine.release()
    assert (await waiting).status_code == 200
