"""What the objects that users get have in public: the methods and attributes of the docs, and no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import carousel
from carousel.testing import FakeModel, FakeServer

CLIENT = {
    "attach", "batch", "close", "close_session", "fork_session", "generate", "health", "import_session",
    "infer", "model", "models", "session", "session_info", "sessions", "statistics",
}  # fmt: skip
SESSION = {
    "applied", "close", "detach", "export", "fork", "generate", "id", "info", "model", "replay", "reset",
    "state", "step", "steps", "stream", "stream_audio", "submitted", "unread",
}  # fmt: skip
BATCH = {"sessions", "step", "steps"}
GENERATION = {"finish_reason", "text", "usage"}
SURFACE = {
    "Client": CLIENT,
    "AsyncClient": CLIENT,
    "Session": SESSION,
    "AsyncSession": SESSION,
    "Batch": BATCH,
    "AsyncBatch": BATCH,
    "Generation": GENERATION | {"close"},
    "AsyncGeneration": GENERATION | {"aclose"},
    "Opening": set[str](),
}


def blocking_objects(target: str) -> dict[str, Any]:
    with carousel.Client(target) as client, client.session("sum") as session:
        generation = client.generate("letters", "a")
        return {
            "Client": client,
            "Session": session,
            "Batch": client.batch([session]),
            "Generation": generation,
        }


async def asyncio_objects(target: str) -> dict[str, Any]:
    async with carousel.AsyncClient(target) as client:
        opening = client.session("sum")
        async with opening as session:
            return {
                "AsyncClient": client,
                "AsyncSession": session,
                "AsyncBatch": client.batch([session]),
                "AsyncGeneration": client.generate("letters", "a"),
                "Opening": opening,
            }


@pytest.fixture
def objects(fake: FakeServer) -> dict[str, Any]:
    return blocking_objects(fake.target) | asyncio.run(asyncio_objects(fake.target))


@pytest.mark.parametrize("kind", SURFACE)
def test_it_is_what_the_docs_describe(objects: dict[str, Any], kind: str) -> None:
    assert type(objects[kind]).__name__ == kind
    assert {name for name in dir(objects[kind]) if not name.startswith("_")} == SURFACE[kind]


@pytest.mark.parametrize("kind", SURFACE)
def test_each_part_is_documented(objects: dict[str, Any], kind: str) -> None:
    described = type(objects[kind]).__doc__ or ""
    for name in SURFACE[kind]:
        part = getattr(type(objects[kind]), name, None)
        assert f"{name}: " in described if part is None else part.__doc__, name


def test_the_parts_for_tests_of_applications() -> None:
    methods = {"codecs", "message", "run"}
    model = FakeModel("m", lambda x, state: (x, state), features=2, outputs=3)
    assert {name for name in dir(model) if callable(getattr(model, name)) and name[0] != "_"} == (
        methods | {"step"}
    )
    inputs, outputs = model.codecs()
    assert (inputs.row_bytes, outputs.row_bytes) == (8, 12)
    assert {name for name in dir(FakeServer) if name[0] != "_"} == {
        "break_streams", "calls", "commit", "crash", "drain", "expire", "hand_over", "inject", "paused",
        "sessions", "stop", "wait_for_call",
    }  # fmt: skip


def test_a_retry_policy_has_its_settings_and_no_more() -> None:
    settings = {"attempts", "first_delay_s", "max_delay_s", "reconnect_s"}
    assert {name for name in dir(carousel.RetryPolicy) if name[0] != "_"} == settings
