"""Finite inputs that a model cannot compute: refused by name at every door, and nothing is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.server import ServerProcess
from support.triton import TritonStubs
from support.wire import refused
from torch import nn

import carousel
import carousel_models as cm
from carousel_server.rows import snapshot

WIDTH, BAD_TOKEN = 8, 255
ROWS = np.random.default_rng(1).standard_normal((40, WIDTH)).astype(np.float32) * 1e-3
BAD = np.full(WIDTH, 1e36, np.float32)


def spoiling_embedding() -> tuple[nn.Embedding, nn.Linear]:
    """A token whose embedding becomes infinite, with both signs, in the projection behind it."""
    embedding, projection = nn.Embedding(256, 4), nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        projection.weight.copy_(2 * torch.eye(4))
        embedding.weight[BAD_TOKEN] = torch.tensor([3e38, -3e38, 3e38, -3e38])
    return embedding, projection


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` divides by 1e-3, so 1e36 becomes infinite; `text` has a token that does."""
    torch.manual_seed(0)
    models = tmp_path_factory.mktemp("tiny")
    normalization = ([0.0] * WIDTH, [1e-3] * WIDTH)
    head = nn.Linear(16, 2)
    cm.save(models / "a", stack=nn.LSTM(WIDTH, 16), head=head, normalization=normalization)
    embedding, projection = spoiling_embedding()
    parts = {"embedding": embedding, "projection": projection, "head": nn.Linear(16, 256)}
    cm.save(models / "text", stack=nn.GRU(4, 16), tokenizer="bytes", **parts)  # type: ignore[arg-type]
    return models


@pytest.fixture(scope="module")
def tiny_server(tiny: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tiny) as process:
        yield process


@pytest.fixture
def client(tiny_server: ServerProcess) -> Iterator[carousel.Client]:
    with carousel.Client(tiny_server.target, timeout_s=60.0) as client:
        yield client


def test_a_step_is_refused_and_the_session_goes_on(client: carousel.Client) -> None:
    a, b = client.session("a"), client.session("a")
    for session in (a, b):
        session.steps(ROWS[:5])
    with pytest.raises(carousel.StepNotFiniteError, match="step 6 does not count") as caught:
        a.step(BAD)
    assert (caught.value.seq, caught.value.code) == (6, "INVALID_ARGUMENT")
    assert a.applied == a.info().applied == 5
    np.testing.assert_array_equal(a.steps(ROWS[5:]), b.steps(ROWS[5:]))
    for session in (a, b):
        session.close()


@pytest.mark.parametrize("at", [0, 1, 31, 300, 699])
def test_pipelined_steps_behind_it_do_not_run(client: carousel.Client, at: int) -> None:
    rows = np.tile(ROWS, (18, 1))[:700]
    bad = rows.copy()
    bad[at] = BAD
    with client.session("a") as session:
        with pytest.raises(carousel.StepNotFiniteError):
            session.steps(bad)
        assert session.applied == session.info().applied <= at
        rest = session.steps(rows[session.applied :])
        np.testing.assert_array_equal(rest, client.infer("a", rows)[-len(rest) :])


def test_the_steps_before_it_are_delivered(client: carousel.Client) -> None:
    rows = ROWS.copy()
    rows[25] = BAD
    heard = []
    with client.session("a") as session:
        with pytest.raises(carousel.StepNotFiniteError):
            heard.extend(session.stream(rows, block_steps=10))
        whole = client.infer("a", ROWS)
        assert len(heard) >= 20
        np.testing.assert_array_equal(heard, whole[: len(heard)])
        assert session.applied == session.info().applied == 25


def test_only_the_session_at_fault_is_refused(client: carousel.Client) -> None:
    inputs = np.stack([ROWS] * 20)
    inputs[3, 7] = inputs[11, 0] = BAD
    sessions = [client.session("a") for _ in inputs]
    with pytest.raises(carousel.BatchStepError) as caught:
        client.batch(sessions).steps(inputs)
    reasons = {i: error.reason for i, error in caught.value.errors.items()}
    assert reasons == {3: "STEP_NOT_FINITE", 11: "STEP_NOT_FINITE"}
    whole = client.infer("a", ROWS)
    for place, session in enumerate(sessions):
        if place not in reasons:
            np.testing.assert_array_equal(caught.value.outputs[place], whole)
        session.close()


def test_whole_sequences(client: carousel.Client) -> None:
    bad = ROWS.copy()
    bad[17] = BAD
    with pytest.raises(carousel.StepNotFiniteError, match="step 18 of the sequence"):
        client.infer("a", bad)
    assert np.isfinite(client.infer("a", ROWS)).all()


def test_generations(client: carousel.Client) -> None:
    prompt = [1, 2, 3, BAD_TOKEN, 4]
    with pytest.raises(carousel.StepNotFiniteError, match="step 4 does not count"):
        list(client.generate("text", prompt, max_tokens=20))
    with client.session("text") as session, client.session("text") as other:
        for one in (session, other):
            one.steps(np.asarray([1, 2, 3], np.int32))
        with pytest.raises(carousel.StepNotFiniteError):
            list(session.generate([BAD_TOKEN], max_tokens=5))
        assert session.info().applied == 3
        same = [list(s.generate([4], max_tokens=8, temperature=0.0)) for s in (session, other)]
        assert same[0] == same[1]
        assert len(same[0]) == 8


def test_copies_and_snapshots(client: carousel.Client) -> None:
    with client.session("a") as session:
        session.steps(ROWS[:5])
        with pytest.raises(carousel.StepNotFiniteError):
            session.step(BAD)
        with session.fork() as copy, client.import_session(session.export()) as taken:
            after = session.steps(ROWS[5:])
            np.testing.assert_array_equal(copy.steps(ROWS[5:]), after)
            np.testing.assert_array_equal(taken.steps(ROWS[5:]), after)
        spoilt = snapshot.decode(session.export())
        state = {name: array.copy() for name, array in spoilt.state.items()}
        state["0.c"][3] = np.nan
        data = snapshot.encode(replace(spoilt, state=state))
        with pytest.raises(carousel.SnapshotInvalidError, match=r"state '0\.c' holds a NaN"):
            client.import_session(data)


async def test_the_triton_door(tiny_server: ServerProcess, client: carousel.Client) -> None:
    whole = client.infer("a", ROWS[:6])
    async with TritonStubs(tiny_server.target) as stubs:
        await stubs.infer("a", ROWS[0], 7, start=True)
        error = await refused(stubs.infer("a", BAD, 7))
        assert error.reason == "STEP_NOT_FINITE"
        stream = stubs.stream()
        rows = [ROWS[1], BAD, ROWS[2], ROWS[3], BAD, ROWS[4], ROWS[5]]
        for row in rows:
            await stream.say("a", row, 7)
        found = []
        for row in rows:
            if row is BAD:
                assert "(STEP_NOT_FINITE, sequence 7, step" in await stream.error()
            else:
                found.append((await stream.output())["y"][0])
        np.testing.assert_array_equal(found, whole[1:])


def test_it_is_counted(tiny_server: ServerProcess, client: carousel.Client) -> None:
    with client.session("a") as session, pytest.raises(carousel.StepNotFiniteError):
        session.step(BAD)
    page = tiny_server.metrics_once("# TYPE carousel_steps_not_finite_total counter")
    counted = [line for line in page.splitlines() if line.startswith("carousel_steps_not_finite")]
    assert any(line.startswith('carousel_steps_not_finite_total{model="a"}') for line in counted)
    assert float(next(line for line in counted if '"a"' in line).split()[-1]) >= 1


@pytest.mark.parametrize("durability", ["async", "sync"])
def test_after_a_restart(tiny: Path, tmp_path: Path, durability: str) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    with ServerProcess(tiny, store=store) as first:
        port = first.port
        client = carousel.Client(first.target, timeout_s=60.0)
        session = client.session("a", durability=durability)
        session.steps(ROWS[:10])
        with pytest.raises(carousel.StepNotFiniteError):
            session.step(BAD)
        session.steps(ROWS[10:20])
        first.signal(signal.SIGKILL)
        first.wait()
    with ServerProcess(tiny, store=store, port=port), client:
        with pytest.raises(carousel.StepNotFiniteError):
            session.step(BAD)
        assert session.info().applied == 20
        whole = client.infer("a", ROWS)
        np.testing.assert_array_equal(session.steps(ROWS[20:]), whole[20:])
        session.close()
