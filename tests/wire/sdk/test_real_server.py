"""The SDK against the real server: cursors, refusals and results as the fake one has them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from support.server import BILSTM, FEATURES, GRU_BYTES, LSTM, ServerProcess

import carousel

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((700, FEATURES)).astype(np.float32)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[carousel.Client]:
    """A client whose test leaves no session: other tests share the server."""
    with carousel.Client(server.target, timeout_s=60.0) as client:
        before = {info.id for info in client.sessions()}
        yield client
        assert {info.id for info in client.sessions()} <= before


def test_streaming_equals_the_whole_sequence(client: carousel.Client) -> None:
    whole = client.infer(LSTM, ROWS)
    with client.session(LSTM) as session:
        np.testing.assert_allclose(session.steps(ROWS), whole, atol=1e-5)
        assert session.applied == session.info().applied == len(ROWS)
    with client.session(LSTM) as session:
        outputs = list(session.stream(ROWS, block_steps=7))
        np.testing.assert_allclose(outputs, whole, atol=1e-5)
    with client.session(LSTM) as session:
        one_by_one = [session.step(row) for row in ROWS[:20]]
        np.testing.assert_allclose(one_by_one, whole[:20], atol=1e-5)


def test_a_generation_follows_one_that_was_left(client: carousel.Client) -> None:
    with client.session(GRU_BYTES) as session:
        for _ in range(4):
            for _token in session.generate("def ", max_tokens=5_000):
                break
            assert len(list(session.generate("x", max_tokens=3))) == 3
        assert session.applied == session.info().applied


def test_a_batch_equals_each_alone(client: carousel.Client) -> None:
    inputs = RNG.standard_normal((40, 300, FEATURES)).astype(np.float32)
    sessions = [client.session(LSTM) for _ in inputs]
    outputs = client.batch(sessions).steps(inputs)
    for i in (0, 17, 39):
        np.testing.assert_allclose(outputs[i], client.infer(LSTM, inputs[i]), atol=1e-5)
    for session in sessions:
        session.close()


def test_a_batch_with_a_bad_session(client: carousel.Client) -> None:
    inputs = RNG.standard_normal((3, 300, FEATURES)).astype(np.float32)
    inputs[1, 250] = np.nan
    sessions = [client.session(LSTM) for _ in inputs]
    with pytest.raises(carousel.BatchStepError) as caught:
        client.batch(sessions).steps(inputs)
    assert {i: error.reason for i, error in caught.value.errors.items()} == {1: "INPUT_NOT_FINITE"}
    np.testing.assert_allclose(caught.value.outputs[2], client.infer(LSTM, inputs[2]), atol=1e-5)
    for session in sessions:
        session.step(inputs[0, 0])
        assert session.applied == session.info().applied
        session.close()


@pytest.mark.parametrize("at", [0, 1, 63, 64, 300, 699])
def test_after_a_bad_row_the_rest_can_be_sent(client: carousel.Client, at: int) -> None:
    rows = ROWS.copy()
    rows[at, 0] = np.inf
    with client.session(LSTM) as session:
        with pytest.raises(carousel.InputNotFiniteError):
            session.steps(rows)
        done = session.applied
        assert done == session.info().applied <= at
        rest = session.steps(ROWS[done:])
        np.testing.assert_allclose(rest, client.infer(LSTM, ROWS)[done:], atol=1e-5)


def test_sessions_left_by_a_refusal_are_closed(client: carousel.Client) -> None:
    """The fixture counts them. The steps behind the bad one are under way when its refusal comes."""
    rows = ROWS.copy()
    rows[300, 0] = np.inf
    for _ in range(10):
        with pytest.raises(carousel.InputNotFiniteError), client.session(LSTM) as session:
            session.steps(rows)


def test_refusals_have_their_names(client: carousel.Client) -> None:
    with pytest.raises(carousel.ModelNotFoundError):
        client.session("nothing")
    with pytest.raises(carousel.ModelNotCausalError):
        client.session(BILSTM)
    with pytest.raises(carousel.SessionNotFoundError):
        client.attach("nothing")
    with pytest.raises(carousel.ModelNotGenerativeError):
        client.generate(LSTM, [1]).text()
    with pytest.raises(carousel.SnapshotInvalidError):
        client.import_session(b"no snapshot")
    with pytest.raises(carousel.DurabilityUnavailableError):
        client.session(LSTM, durability="sync")
    assert client.health() is carousel.Health.SERVING
    assert client.health(LSTM) is carousel.Health.SERVING
    assert client.health("nothing") is carousel.Health.UNKNOWN


def test_generation_repeats_by_seed_and_goes_on(client: carousel.Client) -> None:
    def ids(seed: int) -> list[int]:
        return [t.id for t in client.generate(GRU_BYTES, "def ", max_tokens=30, seed=seed)]

    assert ids(7) == ids(7) != ids(8)
    with client.session(GRU_BYTES, seed=7) as session:
        first = [t.id for t in session.generate("def ", max_tokens=10)]
        second = [t.id for t in session.generate(max_tokens=20)]
        assert first + second == ids(7)
        assert session.applied == session.info().applied


def test_a_generation_that_is_left_frees_the_session(client: carousel.Client) -> None:
    with client.session(GRU_BYTES) as session:
        with session.generate("abc", max_tokens=60_000) as generation:
            next(generation)
        session.step(97)
        assert session.applied == session.info().applied


def test_snapshot_fork_and_attach(client: carousel.Client, server: ServerProcess) -> None:
    name = f"sdk-{uuid.uuid4()}"
    with client.session(LSTM, session_id=name) as session:
        session.steps(ROWS[:50])
        with session.fork() as fork, client.import_session(session.export()) as copy:
            expected = session.step(ROWS[50])
            np.testing.assert_array_equal(fork.step(ROWS[50]), expected)
            np.testing.assert_array_equal(copy.step(ROWS[50]), expected)
        with carousel.Client(server.target) as other, other.attach(name) as again:
            assert again.applied == 51
            np.testing.assert_array_equal(again.replay(), [expected])
            again.step(ROWS[51])
            with pytest.raises(carousel.SupersededError):
                session.step(ROWS[52])
    # Taken away, it was not closed here; its fork and its copy were.
    assert name in {info.id for info in client.sessions(LSTM)}
    assert client.close_session(name).applied == 52


def test_a_full_server_is_waited_for(models_dir: object) -> None:
    with ServerProcess(models_dir, slots=1) as small:
        with carousel.Client(small.target, retries=0) as hasty, hasty.session(LSTM):
            with pytest.raises(carousel.SlabFullError) as caught:
                hasty.session(LSTM)
            assert caught.value.retry_after_s is not None
        with carousel.Client(small.target) as client:
            first = client.session(LSTM)

            def sleep(seconds: float) -> None:
                first.close()
                time.sleep(seconds)  # the slot is free only when the engine has come by

            client._calls.sleep = sleep
            with client.session(LSTM) as second:
                second.step(ROWS[0])


def test_a_dead_server_is_noticed_and_said(models_dir: object) -> None:
    with (
        ServerProcess(models_dir, slots=4) as doomed,
        carousel.Client(doomed.target, retries=0, timeout_s=10) as client,
    ):
        session = client.session(LSTM)
        session.step(ROWS[0])
        doomed.process.kill()
        with pytest.raises(carousel.ConnectionLostError):
            list(session.stream(ROWS))
        with pytest.raises(carousel.ServerUnreachableError):
            client.models()


async def test_the_asyncio_client_does_the_same(server: ServerProcess) -> None:
    async with carousel.AsyncClient(server.target) as client:
        whole = await client.infer(LSTM, ROWS)

        async def work() -> None:
            async with client.session(LSTM) as session:
                outputs = [y async for y in session.stream(ROWS, block_steps=5)]
                np.testing.assert_allclose(outputs, whole, atol=1e-5)

        await asyncio.gather(*[work() for _ in range(8)])
        async with client.generate(GRU_BYTES, "a", max_tokens=60_000) as generation:
            async for _ in generation:
                break
        assert {model.name for model in await client.models()} == {LSTM, GRU_BYTES, BILSTM}
