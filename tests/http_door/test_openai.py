"""OpenAI's own client on the HTTP door, unmodified."""

from __future__ import annotations

import httpx
import openai
import pytest

from carousel_server.core.errors import CarouselError

MODEL = "echo-tokens"


@pytest.fixture
async def client(door):
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{door.port}/v1", api_key="any", max_retries=0
    ) as made:
        yield made


async def test_models_that_generate(client):
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).owned_by == "carousel"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("none")
    assert caught.value.code == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("prompt", ["a", [97], ["a"], [[97]]])
async def test_a_completion(client, prompt):
    got = await client.completions.create(model=MODEL, prompt=prompt, max_tokens=3, seed=-1)
    assert (got.object, got.model) == ("text_completion", MODEL)
    assert (got.choices[0].text, got.choices[0].finish_reason) == ("abc!", "length")
    usage = got.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1, 3, 4)


async def test_a_stream(client):
    stream = await client.completions.create(
        model=MODEL, prompt="a", max_tokens=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "abc!"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 4


async def test_parameters_that_ask_for_nothing_pass(client):
    got = await client.completions.create(
        model=MODEL, prompt="a", n=1, echo=False, presence_penalty=0, logit_bias={}, best_of=1,
        user="me",
    )  # fmt: skip
    assert got.choices[0].text


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"echo": True}, "echo"),
        ({"logprobs": 1}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"extra_body": {"min_p": 1}}, "min_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 2}, "sampling.top_p"),
        ({"prompt": ["a", "b"]}, "prompt"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(client, given, param):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(**{"model": MODEL, "prompt": "a", **given})
    assert (caught.value.param, caught.value.code) == (param, "FIELD_INVALID")
    assert caught.value.type == "invalid_request_error"


async def test_a_failure_in_a_stream_is_raised(client, door):
    door.tokens.tokens_before_pause = 2
    stream = await client.completions.create(model=MODEL, prompt="a", max_tokens=5, stream=True)
    chunks = aiter(stream)
    await anext(chunks)
    command = door.tokens.seen[-1]
    command.sink.failed(CarouselError("STEP_FAILED", "the device has failed"))
    with pytest.raises(openai.APIError, match="the device has failed"):
        async for _ in chunks:
            pass


async def test_a_drain_is_a_server_error(client, door):
    await door.doors.drain(5)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(model=MODEL, prompt="a")
    assert caught.value.code == "DRAINING"


async def test_who_may_come_in(start_doors):
    door = await start_doors(tokens={b"0" * 32: "mine"})
    async with httpx.AsyncClient() as http:
        reply = await http.get(f"http://127.0.0.1:{door.port}/v1/models")
    assert reply.json()["error"]["code"] == "TOKEN_INVALID"
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{door.port}/v1", api_key="wrong", max_retries=0
    ) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
