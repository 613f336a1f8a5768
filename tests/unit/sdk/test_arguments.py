"""Odd inputs and misuse, at both clients: taken if the meaning is plain, else refused by name."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import carousel
from carousel._core.requests import generate_request
from carousel.testing import FakeServer
from carousel_protos.v1 import carousel_pb2 as pb

from .support import WINDOW, opened, sums

LONE_SURROGATE = "\ud800"


@pytest.mark.parametrize(
    "rows",
    [
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        np.array([[1, 2], [3, 4]]),
        np.array([[1, 2], [3, 4]], np.int32),
        np.array([[1, 2], [3, 4]], np.uint32),
        np.array([[1, 2], [3, 4]], np.uint64),
        np.array([[1, 2], [3, 4]], np.float16),
        np.array([[1, 2], [3, 4]], ">f4"),
        np.array([[1, 3], [2, 4]], np.float32).T,
        np.arange(1, 9, dtype=np.float32).reshape(2, 4)[:, :2] * [[1, 1], [3 / 5, 4 / 6]],
        [[True, 2], (3.0, np.float64(4))],
    ],
)
def test_rows_of_any_harmless_kind(client: Any, rows: Any) -> None:
    with client.session("sum") as session:
        np.testing.assert_allclose(session.steps(rows), sums([[1, 2], [3, 4]]))
        np.testing.assert_allclose(client.infer("sum", rows), sums([[1, 2], [3, 4]]))


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([], carousel.InputShapeError),
        (np.zeros((0, 2)), carousel.SequenceTooLongError),
        ([[1, 2], [3]], carousel.InputShapeError),
        (3.0, carousel.InputShapeError),
        (None, carousel.InputShapeError),
        ((row for row in [[1, 2]]), carousel.InputShapeError),
        ([["1", "2"]], carousel.InputDtypeError),
        ([[10**400, 2]], carousel.InputDtypeError),
        (np.array([[1, 2]], object), carousel.InputDtypeError),
        (np.array([[1e300, 2]]), carousel.InputNotFiniteError),
    ],
)
def test_rows_that_are_refused(client: Any, rows: Any, error: type[carousel.CarouselError]) -> None:
    with client.session("sum") as session:
        with pytest.raises(error):
            session.steps(rows)
        assert session.step([1, 1])[0] == 2


@pytest.mark.parametrize("megabytes", [5, 65], ids=["server", "client"])
def test_what_grpc_finds_too_large_has_a_name_and_a_fix(client: Any, megabytes: int) -> None:
    """Beyond the server's limit, and beyond what the client itself sends."""
    rows = np.zeros((megabytes << 17, 2), np.float32)
    with pytest.raises(carousel.MessageTooLargeError, match="larger than max") as caught:
        client.infer("sum", rows)
    assert "fewer steps" in caught.value.fix
    with pytest.raises(carousel.MessageTooLargeError):
        opened(client.import_session(bytes(megabytes << 20)))


def test_tokens_of_any_integer_kind(client: Any) -> None:
    with client.session("letters") as session:
        for token in (97, np.int64(97), np.uint8(97), np.array(97)):
            assert session.step(token).argmax() == 98
        for text in ("ab", b"ab", bytearray(b"ab"), memoryview(b"ab"), [97, 98]):
            assert session.steps(text).argmax(1).tolist() == [98, 99]
        for wrong in (True, 97.0, 2**40, "ab"):
            with pytest.raises((carousel.InputDtypeError, carousel.InputShapeError)):
                session.step(wrong)
        assert session.applied == 14


@pytest.mark.parametrize(
    "ends", [[99], (99,), {99}, b"c", np.array([99], np.uint8), [np.int64(99)]]
)
def test_stop_tokens_of_any_integer_kind(ends: Any) -> None:
    request = generate_request("a", {"max_tokens": 1, "stop_tokens": ends}, model="letters")
    assert list(request.stop_tokens) == [99]


@pytest.mark.parametrize(
    "ends", [[1.5], np.array([99.0]), "c", [True], [None], np.ma.masked_array([99], [True])]
)
def test_stop_tokens_that_are_none(client: Any, ends: Any) -> None:
    with pytest.raises(carousel.InputDtypeError, match=r"token ids|masked"):
        client.generate("letters", "a", stop_tokens=ends)


def test_a_generation_without_options() -> None:
    request = generate_request("a", {}, model="letters")
    assert request.max_tokens == 256
    assert request.sampling == pb.Sampling(top_k=0)
    for unset in ("temperature", "top_p", "repetition_penalty", "seed"):
        assert not request.sampling.HasField(unset)
    assert not request.HasField("logprobs")
    assert (list(request.stop), list(request.stop_tokens)) == ([], [])


def test_every_option_of_a_generation_reaches_the_wire() -> None:
    options: carousel.GenerateOptions = {
        "max_tokens": 3, "temperature": 0.5, "top_k": 4, "top_p": 0.25, "repetition_penalty": 1.5,
        "seed": 7, "stop": "x", "stop_tokens": [9], "logprobs": 2, "timeout_s": 5.0,
        "initial": "anna",
    }  # fmt: skip
    assert options.keys() == carousel.GenerateOptions.__annotations__.keys()
    sampling = pb.Sampling(temperature=0.5, top_k=4, top_p=0.25, repetition_penalty=1.5, seed=7)
    assert generate_request([1], options, session_id="s") == pb.GenerateRequest(
        session_id="s", tokens=pb.Tokens(ids=[1]), sampling=sampling, max_tokens=3, stop=["x"],
        stop_tokens=[9], logprobs=2, initial="anna",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["tempreature", "model", "session_id", "options"])
def test_an_unknown_option_is_a_type_error(client: Any, name: str) -> None:
    with client.session("letters") as session:
        for generate in (lambda **o: client.generate("letters", "a", **o), session.generate):
            with pytest.raises(TypeError, match=name):
                generate(**{name: 1})


def test_numbers_and_texts_that_the_wire_cannot_hold(client: Any) -> None:
    with client.session("letters") as session:
        for call in (
            lambda: session.steps(LONE_SURROGATE),
            lambda: client.infer("tags", LONE_SURROGATE),
            lambda: client.generate("letters", LONE_SURROGATE),
            lambda: client.generate("letters", "a", stop=LONE_SURROGATE),
            lambda: client.generate("letters", [2**40]),
            lambda: client.generate("letters", "a", stop_tokens=[2**40]),
            lambda: client.generate("letters", "a", seed=-1),
            lambda: client.generate("letters", "a", max_tokens=2**40),
            lambda: opened(client.session("sum", seed=2**64)),
            lambda: opened(client.session("sum", idle_ttl_s=math.nan)),
            lambda: opened(client.session("sum", idle_ttl_s=math.inf)),
            lambda: opened(client.session("sum", idle_ttl_s=-1)),
            lambda: list(session.stream([97], ahead=0)),
            lambda: list(session.stream([97], block_steps=0)),
            lambda: session.step(97, timeout_s=math.nan),
        ):
            with pytest.raises(carousel.FieldInvalidError):
                call()
        assert session.step(97, timeout_s=math.inf).argmax() == 98
        assert session.applied == 1
    with pytest.raises(carousel.SequenceTooLongError):
        client.generate("letters", "").text()


def test_a_timeout_that_has_passed_already(client: Any) -> None:
    with client.session("sum") as session:
        for timeout_s in (0, -1):
            with pytest.raises(carousel.ReplyTimeoutError):
                session.step([1, 1], timeout_s=timeout_s)
        session.step([1, 1])
        assert session.applied == session.info().applied


def test_blocks_longer_than_the_window(client: Any) -> None:
    rows = np.ones((5 * WINDOW + 1, 2), np.float32)
    with client.session("sum") as session:
        outputs = list(session.stream(rows, block_steps=2 * WINDOW))
        np.testing.assert_array_equal(outputs, sums(rows))
        assert list(session.stream([])) == []


def test_outputs_are_the_callers_own(client: Any) -> None:
    with client.session("sum") as session:
        first = session.step([1, 2])
        kept = first.copy()
        session.steps(np.ones((30, 2)))
        np.testing.assert_array_equal(first, kept)


def test_everything_is_refused_after_close(client: Any) -> None:
    session = opened(client.session("sum"))
    other = opened(client.session("letters"))
    stream = other.generate("a", max_tokens=5)
    client.close()
    for call in (
        client.models,
        client.health,
        lambda: client.model("sum"),
        lambda: client.infer("sum", [[1, 1]]),
        lambda: client.generate("letters", "a").text(),
        lambda: list(client.sessions()),
        lambda: opened(client.session("sum")),
        lambda: opened(client.attach("s")),
        lambda: session.step([1, 1]),
        lambda: list(session.stream([[1, 1]])),
        lambda: client.batch([session]).step([[1, 1]]),
        session.replay,
        session.export,
        session.info,
        stream.text,
    ):
        with pytest.raises(carousel.ClientClosedError):
            call()
    session.close()
    session.detach()


def test_a_session_that_was_closed_says_so(client: Any) -> None:
    session = opened(client.session("sum"))
    session.close()
    for call in (lambda: session.step([1, 1]), session.replay, session.info):
        with pytest.raises(carousel.NotFoundError):
            call()


def test_a_copy_in_a_forked_process_is_refused(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC's threads stay behind in the parent, so a call would wait for ever."""
    session = opened(client.session("sum"))
    parent = os.getpid()
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: parent + 1)
        for call in (
            client.models,
            lambda: session.step([1, 1]),
            lambda: opened(client.session("sum")),
            lambda: client.generate("letters", "a").text(),
        ):
            with pytest.raises(carousel.ClientClosedError, match="fork"):
                call()
        client.close()
    assert session.step([1, 1])[0] == 2  # the parent's is as it was


PROGRAM = """
import asyncio, sys, carousel
async def main():
    client = carousel.AsyncClient(sys.argv[1])
    session = await client.session("sum")
    async for y in session.stream([[1, 1]] * 20):
        break
    generation = client.generate("letters", "a", max_tokens=50_000)
    await anext(generation)
    if sys.argv[2] == "async":
        print("done", flush=True)
if sys.argv[2] == "async":
    asyncio.run(main())
else:
    client = carousel.Client(sys.argv[1])
    session = client.session("sum")
    stream = session.stream([[1, 1]] * 20)
    next(stream)
    generation = client.generate("letters", "a", max_tokens=50_000)
    next(generation)
    print("done", flush=True)
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_program_may_end_without_closing_anything(fake: FakeServer, kind: str) -> None:
    """A cancel while the interpreter ends hung 1 in 36 on a busy machine; it comes before that now."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, fake.target, kind],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_options_are_checked(make_client: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        make_client(timeout_s=math.nan)
