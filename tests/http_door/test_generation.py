"""Generation over HTTP: whole, as events, and given up."""

from __future__ import annotations

import json

import pytest
from support.wire import settled

from carousel_server.core import ports
from carousel_server.core.errors import CarouselError

PATH = "/api/models/echo-tokens/generate"


def events(text):
    """(name, data) of each event."""
    found = []
    for block in filter(None, text.split("\n\n")):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines.get("event", ""), json.loads(lines["data"])))
    return found


async def test_a_whole_generation(door):
    reply = await door.http.post(PATH, json={"prompt": "a", "max_tokens": 3})
    got = reply.json()
    assert got["text"] == "abc!"
    assert [token["id"] for token in got["tokens"]] == [97, 98, 99]
    assert got["finish_reason"] == "length"
    assert got["usage"] == {"prompt_tokens": 1, "generated_tokens": 3, "applied": 3}


async def test_events(door):
    reply = await door.http.post(PATH, json={"prompt": "a", "max_tokens": 3, "stream": True})
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["cache-control"] == "no-store"
    got = events(reply.text)
    assert "".join(t["text"] for _, data in got for t in data["tokens"]) == "abc!"
    assert got[-1][1]["finish_reason"] == "length"
    assert [data.get("finish_reason") for _, data in got[:-1]] == [None] * (len(got) - 1)


async def test_what_is_asked_for_reaches_the_engine(door):
    body = {
        "tokens": [1, 2], "max_tokens": 5, "temperature": 0, "top_k": 3, "top_p": 0.5,
        "repetition_penalty": 1.5, "seed": 2**64 - 1, "stop": ["x"], "stop_tokens": [7],
        "logprobs": 2,
    }  # fmt: skip
    await door.http.post(PATH, json=body)
    (command,) = (seen for seen in door.tokens.seen if isinstance(seen, ports.Generate))
    spec = command.spec
    assert (spec.prompt.tolist(), spec.max_tokens, spec.stop, spec.stop_tokens) == (
        [1, 2], 5, ("x",), (7,)
    )  # fmt: skip
    sampling = spec.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0, 3, 0.5)
    assert (sampling.repetition_penalty, sampling.seed, spec.logprobs) == (1.5, 2**64 - 1, 2)


async def test_in_a_session(door):
    reply = await door.http.post("/api/models/echo-tokens/sessions", json={"session_id": "mine"})
    assert reply.status_code == 201
    path = "/api/sessions/mine/generate"
    reply = await door.http.post(path, json={"prompt": "a", "max_tokens": 2})
    assert reply.json()["text"] == "ab!"
    (command,) = (seen for seen in door.tokens.seen if isinstance(seen, ports.Generate))
    assert not command.close_after


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (PATH, {"prompt": "a", "max_tokens": 0}, 400, "FIELD_INVALID"),
        (PATH, {"prompt": "a", "tokens": [1]}, 400, "FIELD_INVALID"),
        (PATH, {"tokens": [256]}, 400, "UNKNOWN_TOKEN"),
        (PATH, {"tokens": [1] * 65}, 400, "SEQUENCE_TOO_LONG"),
        (PATH, {"prompt": "a", "top_p": 2}, 400, "FIELD_INVALID"),
        ("/api/models/echo/generate", {"prompt": "a"}, 409, "MODEL_NOT_GENERATIVE"),
        ("/api/models/none/generate", {"prompt": "a"}, 404, "MODEL_NOT_FOUND"),
        ("/api/sessions/none/generate", {"prompt": "a"}, 404, "SESSION_NOT_FOUND"),
    ],
)
async def test_refusals_come_before_a_stream(door, path, body, status, reason, stream):
    reply = await door.http.post(path, json={**body, "stream": stream})
    assert (reply.status_code, reply.json()["reason"]) == (status, reason)


async def test_a_failure_in_the_middle_is_an_event(door):
    door.tokens.tokens_before_pause = 2
    body = {"prompt": "a", "max_tokens": 5, "stream": True}
    async with door.http.stream("POST", PATH, json=body) as reply:
        lines = reply.aiter_lines()
        await anext(lines)
        (command,) = (seen for seen in door.tokens.seen if isinstance(seen, ports.Generate))
        command.sink.failed(CarouselError("STEP_FAILED", "the device has failed"))
        rest = [line async for line in lines]
    assert "event: error" in rest
    data = next(line for line in rest if "STEP_FAILED" in line)
    assert json.loads(data.removeprefix("data: "))["status"] == 500


async def test_a_client_that_goes_ends_its_generation(door):
    door.tokens.tokens_before_pause = 2
    body = {"prompt": "a", "max_tokens": 5, "stream": True}
    async with door.http.stream("POST", PATH, json=body) as reply:
        await anext(reply.aiter_lines())
    await settled(lambda: any(isinstance(seen, ports.CancelGenerate) for seen in door.tokens.seen))
    await settled(lambda: ("Generate", "server_stream", "CANCELLED") in door.metrics.ended)
