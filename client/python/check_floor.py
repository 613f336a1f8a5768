"""Runs the SDK and its command against the fake server, with the libraries of the interpreter that runs this.

`make floor` does so with the oldest versions that the SDK promises to work with, and with the newest
protobuf that TensorFlow up to 2.19 takes. Ends with the versions; any error or warning fails.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

import carousel
from carousel.cli.main import run
from carousel.testing import FakeModel, FakeServer

PACKAGES = ("grpcio", "grpcio-status", "protobuf", "numpy")


def running_sum(x: Any, state: Any) -> tuple[Any, Any]:
    """What the model "sum" computes."""
    state = state + np.float32(x.sum())
    return np.array([state], np.float32), state


def next_byte(x: Any, state: Any) -> tuple[Any, Any]:
    """Logits that favour the next byte."""
    return np.eye(256, dtype=np.float32)[(int(x) + 1) % 256] * 9, state


SUM = FakeModel("sum", running_sum, features=2, outputs=1, initial=np.float32(0))
LETTERS = FakeModel("letters", next_byte, outputs=256, vocabulary=256, tokenizer="bytes")


def blocking(fake: FakeServer) -> None:
    """Every kind of call of the blocking client, and a stream that breaks."""
    with carousel.Client(fake.target, timeout_s=60) as client:
        assert client.health() is carousel.Health.SERVING
        assert [model.name for model in client.models()] == ["letters", "sum"]
        with client.session("sum", durability="async") as session:
            session.steps([[1, 2], [3, 4]])
            fake.break_streams()
            assert session.step([1, 1]) == [12]
            assert session.info().applied == 3
            with client.import_session(session.export()) as copy:
                assert copy.step([0, 1]) == [13]
        assert client.infer("sum", [[1, 2]]).tolist() == [[3]]
        assert client.generate("letters", "ab", max_tokens=3, temperature=0).text() == "cde"
        fake.inject("Infer", "QUEUE_FULL", retry_after_s=0.001)
        assert client.infer("sum", [[1, 2]]).tolist() == [[3]]
        refused(lambda: client.session("absent"))


def refused(call: Callable[[], object]) -> None:
    """The server's refusal arrives with its reason and details."""
    request_id = ""
    try:
        call()
    except carousel.ModelNotFoundError as error:
        request_id = error.request_id
    assert request_id, "an unknown model was not refused with its details"


async def awaited(fake: FakeServer) -> None:
    """The asyncio client."""
    async with carousel.AsyncClient(fake.target, timeout_s=60) as client:
        async with client.session("sum") as session:
            assert await session.step([1, 2]) == [3]
        assert await client.generate("letters", "ab", max_tokens=3, temperature=0).text() == "cde"


def main() -> int:
    """Returns the exit code."""
    warnings.simplefilter("error")
    with FakeServer(SUM, LETTERS, durable=True) as fake:
        blocking(fake)
        asyncio.run(awaited(fake))
        code = run(["health", "--server", fake.target])
    print(", ".join(f"{package} {version(package)}" for package in PACKAGES))
    return code


if __name__ == "__main__":
    sys.exit(main())
