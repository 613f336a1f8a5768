"""kill -9 in the middle of a text: the caller of `generate` sees a pause, and the same text."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.server import GRU_BYTES, ServerProcess

import carousel

TOKENS = 4_000


def restarted(models_dir: Path, dead: ServerProcess) -> ServerProcess:
    """A new process in the place of one that was killed."""
    dead.signal(signal.SIGKILL)
    dead.process.wait()
    return ServerProcess(models_dir, slots=8, port=dead.port)


def test_a_text_goes_on_where_a_killed_server_left_it(models_dir: Path) -> None:
    with ServerProcess(models_dir, slots=8) as first, carousel.Client(first.target) as client:
        whole = client.generate(GRU_BYTES, "a", max_tokens=TOKENS, seed=7).text()
        generation = client.generate(GRU_BYTES, "a", max_tokens=TOKENS, seed=7)
        begun = "".join(next(generation).text for _ in range(10))
        with restarted(models_dir, first):
            assert begun + generation.text() == whole
        assert generation.usage is not None
        assert generation.usage.generated_tokens == TOKENS


async def test_an_awaited_text_goes_on_too(models_dir: Path) -> None:
    with ServerProcess(models_dir, slots=8) as first:
        async with carousel.AsyncClient(first.target) as client:
            whole = await client.generate(GRU_BYTES, "a", max_tokens=TOKENS, seed=7).text()
            generation = client.generate(GRU_BYTES, "a", max_tokens=TOKENS, seed=7)
            begun = "".join([(await anext(generation)).text for _ in range(10)])
            with restarted(models_dir, first):
                assert begun + await generation.text() == whole


def test_patience_ends_and_says_so(models_dir: Path) -> None:
    patience = carousel.RetryPolicy(reconnect_s=0.5)
    with (
        ServerProcess(models_dir, slots=8) as server,
        carousel.Client(server.target, retries=patience) as client,
    ):
        generation = client.generate(GRU_BYTES, "a", max_tokens=60_000)
        next(generation)
        server.signal(signal.SIGKILL)
        with pytest.raises((carousel.ServerUnreachableError, carousel.ConnectionLostError)):
            generation.text()
