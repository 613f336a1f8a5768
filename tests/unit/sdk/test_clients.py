"""What users see of a client, the same for threads and for asyncio."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import carousel
from carousel.testing import FakeModel, FakeServer

from .support import SUM, WINDOW, opened, sums

ROWS = np.arange(80, dtype=np.float32).reshape(40, 2)


def test_a_step_takes_and_gives_rows(client: Any) -> None:
    with client.session("sum") as session:
        y = session.step([1, 2])
        assert y.dtype == np.float32
        assert y.tolist() == [3, 1]
        assert session.applied == 1


def test_steps_longer_than_the_window_are_cut_and_joined(client: Any) -> None:
    assert len(ROWS) > 2 * WINDOW
    with client.session("sum") as session:
        np.testing.assert_array_equal(session.steps(ROWS), sums(ROWS))
        np.testing.assert_array_equal(session.steps(ROWS), sums(ROWS, ROWS.sum()))
        assert session.applied == 2 * len(ROWS)


@pytest.mark.parametrize("ahead", [1, 3, None])
@pytest.mark.parametrize("block_steps", [1, 3])
def test_a_stream_yields_every_output_in_order(
    client: Any, ahead: int | None, block_steps: int
) -> None:
    with client.session("sum") as session:
        outputs = list(session.stream(iter(ROWS), ahead=ahead, block_steps=block_steps))
        np.testing.assert_array_equal(outputs, sums(ROWS))


def test_a_stream_that_is_left_leaves_a_session_that_goes_on(client: Any) -> None:
    with client.session("sum") as session:
        for _ in session.stream(iter(ROWS), ahead=1):
            break
        before = session.info().applied
        assert before >= 1
        session.step([0, 0])
        assert session.applied == session.info().applied > before


def test_a_source_that_fails_ends_the_stream_and_not_the_session(client: Any) -> None:
    def rows() -> Iterator[Any]:
        yield from ROWS[:5]
        raise OSError("the sensor broke")

    with client.session("sum") as session:
        with pytest.raises(OSError, match="sensor"):
            list(session.stream(rows(), block_steps=2))
        session.step([0, 0])
        assert session.applied == session.info().applied <= 6


@pytest.mark.parametrize("block_steps", [1, 2, 4])
@pytest.mark.parametrize("ahead", [None, 1])
def test_the_outputs_of_rows_before_a_fault_come_before_it(
    client: Any, block_steps: int, ahead: int | None
) -> None:
    def rows() -> Iterator[Any]:
        yield from ROWS[:5]
        raise OSError("the sensor broke")

    got: list[Any] = []
    with client.session("sum") as session:
        with pytest.raises(OSError, match="sensor"):
            got.extend(session.stream(rows(), ahead=ahead, block_steps=block_steps))
        np.testing.assert_array_equal(got, sums(ROWS[:5]))
        assert session.applied == 5


@pytest.mark.parametrize("block_steps", [1, 2, 4])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([1.0], carousel.InputShapeError),
        (["a", "b"], carousel.InputDtypeError),
        (np.ma.masked_array([1.0, 2.0], [True, False]), carousel.InputDtypeError),
    ],
)
def test_the_outputs_of_rows_before_a_bad_row_come_before_its_refusal(
    client: Any, block_steps: int, bad: Any, error: type[Exception]
) -> None:
    def rows() -> Iterator[Any]:
        yield from (*ROWS[:3], bad)
        raise OSError("the sensor broke")

    got: list[Any] = []
    with client.session("sum") as session:
        with pytest.raises(error):
            got.extend(session.stream(rows(), block_steps=block_steps))
        np.testing.assert_array_equal(got, sums(ROWS[:3]))
        np.testing.assert_array_equal(session.steps(ROWS[3:5]), sums(ROWS[:5])[3:])


def test_a_batch_steps_many_sessions(client: Any) -> None:
    sessions = [opened(client.session("sum")) for _ in range(5)]
    rows = np.arange(5 * 20 * 2, dtype=np.float32).reshape(5, 20, 2)
    batch = client.batch(sessions)
    assert batch.step(rows[:, 0]).shape == (5, 2)
    outputs = batch.steps(rows)
    for row, first, output in zip(rows, rows[:, 0], outputs, strict=True):
        np.testing.assert_array_equal(output, sums(row, first.sum()))


def test_a_batch_tells_who_failed_and_gives_the_others(fake: FakeServer, client: Any) -> None:
    sessions = [opened(client.session("sum")) for _ in range(3)]
    rows = np.ones((3, 20, 2), np.float32)
    rows[1, 15, 0] = np.nan
    with pytest.raises(carousel.BatchStepError) as caught:
        client.batch(sessions).steps(rows)
    assert list(caught.value.errors) == [1]
    assert isinstance(caught.value.errors[1], carousel.InputNotFiniteError)
    for i in (0, 2):
        np.testing.assert_array_equal(caught.value.outputs[i], sums(rows[i]))
    applied = sessions[1].info().applied
    assert applied < 16
    assert sessions[1].step([1, 1])[0] == 2 * applied + 2


def test_a_batch_must_fit_together(client: Any) -> None:
    one, other = opened(client.session("sum")), opened(client.session("letters"))
    for group in ([], [one, one], [one, other]):
        with pytest.raises(carousel.ConflictError):
            client.batch(group)


def test_whole_sequences(client: Any) -> None:
    np.testing.assert_array_equal(client.infer("sum", ROWS), sums(ROWS))
    assert client.infer("tags", b"abc").tolist() == [1, 0, 1]
    assert client.infer("tags", "abc").tolist() == [1, 0, 1]
    assert client.infer("tags", np.array([97, 98])).tolist() == [1, 0]
    assert client.model("tags").label_names([1, 0]) == ["odd", "even"]


def test_several_fields_are_a_structured_array(client: Any) -> None:
    result = client.infer("top", [[1, 9, 3, 8], [4, 0, 0, 5]])
    assert result["indices"].tolist() == [[1, 3], [3, 0]]
    assert result["values"].tolist() == [[9, 8], [5, 4]]
    with client.session("top") as session:
        assert session.step([1, 2, 3, 4])["indices"].tolist() == [3, 2]


def test_tokens_and_text_are_steps(client: Any) -> None:
    with client.session("letters") as session:
        assert int(session.step(97).argmax()) == 98
        assert session.steps("az").argmax(1).tolist() == [98, 123]
        assert session.steps(b"az").argmax(1).tolist() == [98, 123]


def test_generation_gives_tokens_and_says_why_it_ended(client: Any) -> None:
    generation = client.generate("letters", "ab", max_tokens=4, temperature=0)
    assert "".join(token.text for token in generation) == "cdef"
    assert generation.finish_reason is carousel.FinishReason.LENGTH
    assert generation.usage == carousel.Usage(prompt_tokens=2, generated_tokens=4, applied=5)


def test_a_seed_repeats_a_text(client: Any) -> None:
    texts = [client.generate("letters", [97], max_tokens=20, seed=7).text() for _ in range(2)]
    assert texts[0] == texts[1]


def test_generation_and_steps_share_a_session(client: Any) -> None:
    with client.session("letters") as session:
        session.steps("ab")
        assert session.generate("c", max_tokens=3, temperature=0).text() == "def"
        assert session.applied == 5
        session.steps("xyz")
        assert session.applied == session.info().applied == 8


def test_the_fake_server_speaks_whole_characters_as_the_real_one(
    make_client: Callable[..., Any],
) -> None:
    def says(x: Any, state: Any) -> tuple[Any, Any]:
        return np.eye(256, dtype=np.float32)[0xA9 if x == 0xC3 else 0xC3], state

    acute = FakeModel("acute", says, outputs=256, vocabulary=256, tokenizer="bytes")
    with FakeServer(acute) as fake:
        client = make_client(fake.target, timeout_s=10.0)
        with client.session("acute") as session:
            texts = [session.generate("é", max_tokens=1, temperature=0).text()]
            texts += [session.generate(max_tokens=n, temperature=0).text() for n in (1, 3, 1)]
            assert texts == ["", "é", "é", "é"]
        assert client.generate("acute", "é", max_tokens=2, temperature=0).text() == "é"
        assert client.generate("acute", "é", max_tokens=1, temperature=0).text() == "\ufffd"


def test_a_generation_that_is_left_is_cancelled_and_the_session_goes_on(
    fake: FakeServer, client: Any
) -> None:
    with client.session("letters") as session:
        with session.generate("a", max_tokens=1_000_000, temperature=0) as generation:
            for token in generation:
                assert token.text == "b"
                break
        fake.wait_for_call("Generate ended")
        session.step(97)
        assert session.applied == session.info().applied


def test_a_dropped_generation_is_cancelled(fake: FakeServer, client: Any) -> None:
    generation = client.generate("letters", "a", max_tokens=1_000_000)
    next(iter(generation))
    del generation
    gc.collect()  # an error that passed through the loop is a cycle, whose frames hold what callers had
    fake.wait_for_call("Generate ended")


def test_a_text_goes_on_over_broken_connections(fake: FakeServer, make_client: Any) -> None:
    client = make_client(timeout_s=10.0, retries=carousel.RetryPolicy(first_delay_s=0.001))
    whole = client.generate("letters", "a", max_tokens=20_000, seed=7).text()
    generation, text = client.generate("letters", "a", max_tokens=20_000, seed=7), ""
    for place, token in enumerate(generation):
        text += token.text
        if place in (0, 10_000):
            fake.break_streams()
    assert text == whole
    assert generation.usage.generated_tokens == 20_000


def test_a_server_that_is_replaced_goes_on_with_the_text(
    fake: FakeServer, make_client: Any
) -> None:
    client = make_client(timeout_s=10.0, retries=carousel.RetryPolicy(first_delay_s=0.001))
    generation = client.generate("letters", "a", max_tokens=6, temperature=0)
    assert next(iter(generation)).text == "b"
    fake.inject("Token", "DRAINING", times=2, retry_after_s=0.001)
    assert generation.text() == "cdefg"


def test_sessions_are_listed_over_pages_and_models_too(client: Any) -> None:
    ids = sorted(opened(client.session("sum")).id for _ in range(5))
    assert [info.id for info in client.sessions()] == ids
    assert not list(client.sessions("letters"))
    assert [model.name for model in client.models()] == ["letters", "sum", "tags", "top"]
    model = client.model("sum")
    assert (model.input.shape, model.window_steps, model.causal) == ((2,), WINDOW, True)


def test_leaving_closes_own_sessions_and_detaches_attached_ones(
    fake: FakeServer, client: Any
) -> None:
    with client.session("sum", session_id="mine") as session:
        session.step([1, 1])
        with client.attach("mine") as again:
            assert again.applied == 1
            assert again.step([1, 1]).tolist() == [4, 1]
        assert [info.id for info in fake.sessions()] == ["mine"]
        assert session.info().applied == 2
        with pytest.raises(carousel.SupersededError):
            session.step([1, 1])
    assert [info.id for info in fake.sessions()] == ["mine"], "it was taken away from `session`"
    with client.session("sum", session_id="mine") as session:
        assert session.applied == 2
    assert fake.sessions() == []


def test_attach_offers_what_nobody_has_read(fake: FakeServer, make_client: Any) -> None:
    first, second = make_client(), make_client()
    with first.session("sum", session_id="s") as session:
        session.steps(np.ones((3, 2)))  # too few for an acknowledgement of their own
        attached = opened(second.attach("s"))
        assert attached.unread == 3
        np.testing.assert_array_equal(attached.replay(), sums(np.ones((3, 2))))
        assert attached.unread == 0
        assert len(attached.replay()) == 0
        assert attached.step([1, 1])[0] == 8
        with pytest.raises(carousel.SupersededError):
            session.step([1, 1])


def test_snapshots_and_forks_go_on_from_the_same_state(client: Any) -> None:
    with client.session("sum") as session:
        session.steps(ROWS)
        snapshot = session.export()
        fork = opened(session.fork(session_id="fork"))
        copy = opened(client.import_session(snapshot))
        session.step([1000, 0])
        total = ROWS.sum() + 1
        assert fork.step([1, 0])[0] == copy.step([1, 0])[0] == total
        assert fork.id == "fork"
        assert fork.applied == len(ROWS) + 1
        fork.close()
        fork.close()
        with pytest.raises((carousel.SessionClosedError, carousel.ClientClosedError)):
            fork.step([1, 1])


def test_health(client: Any) -> None:
    assert client.health() is carousel.Health.SERVING
    assert client.health("sum") is carousel.Health.SERVING
    assert client.health("nothing") is carousel.Health.UNKNOWN


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([1, 2, 3], carousel.InputShapeError),
        ([[1, 2]], carousel.InputShapeError),
        ([1j, 2], carousel.InputDtypeError),
        ([np.nan, 0], carousel.InputNotFiniteError),
        ("ab", carousel.TextUnavailableError),
    ],
)
def test_a_bad_step_is_named_and_harms_nothing(
    client: Any, rows: Any, error: type[carousel.CarouselError]
) -> None:
    with client.session("sum") as session:
        session.step([1, 1])
        with pytest.raises(error):
            session.step(rows)
        assert session.step([1, 1]).tolist() == [4, 1]
        assert session.applied == 2


def test_a_bad_row_among_many_stops_there(client: Any) -> None:
    rows = ROWS.copy()
    rows[30, 0] = np.inf
    with client.session("sum") as session:
        with pytest.raises(carousel.InputNotFiniteError):
            session.steps(rows)
        assert session.applied == session.info().applied < 31
        done = session.applied
        np.testing.assert_array_equal(
            session.steps(ROWS[done:]), sums(ROWS[done:], ROWS[:done].sum())
        )


def test_a_session_that_is_left_by_a_refusal_is_closed(fake: FakeServer, client: Any) -> None:
    """Steps behind the bad one are under way then, so its handle is about to be bound anew."""
    rows = ROWS.copy()
    rows[3, 0] = np.nan
    for _ in range(10):
        with pytest.raises(carousel.InputNotFiniteError), client.session("sum") as session:
            session.steps(rows)
    assert fake.sessions() == []


def test_a_session_that_is_closed_with_steps_under_way(fake: FakeServer, client: Any) -> None:
    for seconds in (0.0, 0.001):
        session = opened(client.session("sum"))
        with pytest.raises(carousel.ReplyTimeoutError), fake.paused():
            session.steps(ROWS, timeout_s=seconds + 1e-4)
        session.close()
    assert fake.sessions() == []


def test_an_unknown_token_and_empty_inputs(client: Any) -> None:
    with client.session("letters") as session:
        with pytest.raises(carousel.UnknownTokenError):
            session.step(256)
        with pytest.raises(carousel.InputDtypeError):
            session.step(1.5)
        with pytest.raises(carousel.SequenceTooLongError):
            session.steps("")


def test_what_is_not_there_is_named(client: Any) -> None:
    with pytest.raises(carousel.ModelNotFoundError, match="MODEL_NOT_FOUND"):
        opened(client.session("nothing"))
    with pytest.raises(carousel.SessionNotFoundError):
        opened(client.attach("nothing"))
    with pytest.raises(carousel.ModelNotCausalError):
        opened(client.session("tags"))
    with pytest.raises(carousel.ModelNotGenerativeError):
        list(client.generate("sum", [1]))


def test_an_expired_session_says_so(fake: FakeServer, client: Any) -> None:
    session = opened(client.session("sum"))
    session.step([1, 1])
    fake.expire(session.id)
    with pytest.raises(carousel.SessionExpiredError):
        session.step([1, 1])
    session.close()


def test_refusals_that_pass_are_tried_again(fake: FakeServer, client: Any) -> None:
    fake.inject("Bind", "SLAB_FULL", times=2, retry_after_s=0.001)
    with client.session("sum") as session:
        fake.inject("Step", "QUEUE_FULL", times=2, retry_after_s=0.001)
        assert session.step([1, 1]).tolist() == [2, 1]
        fake.inject("Step", "STEP_FAILED")
        np.testing.assert_array_equal(session.steps(ROWS), sums(ROWS, 2))
    fake.inject("Infer", "QUEUE_FULL", retry_after_s=0.001)
    assert len(client.infer("sum", ROWS)) == len(ROWS)
    fake.inject("Generate", "SLAB_FULL", retry_after_s=0.001)
    assert client.generate("letters", "a", max_tokens=2, temperature=0).text() == "bc"


def test_a_hint_is_honoured_and_jitter_goes_on_top(fake: FakeServer, client: Any) -> None:
    slept = []
    calls = getattr(client, "wrapped", client)._calls

    def sleep(seconds: float) -> Any:
        slept.append(seconds)
        return _nothing()

    calls.sleep = sleep
    fake.inject("Infer", "QUEUE_FULL", times=2, retry_after_s=2.0)
    client.infer("sum", ROWS)
    assert len(slept) == 2
    assert all(2.0 <= seconds <= 3.0 for seconds in slept)


class _nothing:  # noqa: N801 - awaitable at once
    def __await__(self) -> Any:
        return iter(())


def test_tries_end(fake: FakeServer, make_client: Callable[..., Any]) -> None:
    client = make_client(retries=0)
    fake.inject("Infer", "QUEUE_FULL", retry_after_s=0.001)
    with pytest.raises(carousel.QueueFullError) as caught:
        client.infer("sum", ROWS)
    assert caught.value.retry_after_s == pytest.approx(0.001)
    assert caught.value.request_id == "fake"
    assert isinstance(caught.value, carousel.RefusedError)


def test_a_wait_ends_and_the_step_is_not_lost(fake: FakeServer, client: Any) -> None:
    with client.session("sum") as session:
        with fake.paused(), pytest.raises(carousel.ReplyTimeoutError):
            session.step([1, 1], timeout_s=0.05)
        # The step ran after all, once; the next one follows it.
        assert session.step([1, 1]).tolist() == [4, 1]
        assert session.applied == 2


def test_without_retries_a_lost_stream_says_where_the_state_is(
    fake: FakeServer, make_client: Callable[..., Any]
) -> None:
    client = make_client(retries=0)
    session = opened(client.session("sum", session_id="s"))
    session.steps(ROWS)
    fake.break_streams()
    with pytest.raises(carousel.ConnectionLostError, match="attach"):
        # The break may be noticed some steps later.
        list(session.stream(itertools.repeat([0, 0])))
    again = opened(client.attach("s"))
    assert again.step([1, 0])[0] == ROWS.sum() + 1
    with pytest.raises(carousel.ConnectionLostError):
        session.step([1, 1])


def test_nobody_listens(make_client: Callable[..., Any]) -> None:
    client = make_client("127.0.0.1:1", retries=0)
    with pytest.raises(carousel.ServerUnreachableError):
        client.models()
    with pytest.raises(carousel.ServerUnreachableError):
        opened(client.attach("s"))


def test_a_closed_client_takes_nothing(client: Any) -> None:
    session = opened(client.session("sum"))
    client.close()
    client.close()
    with pytest.raises(carousel.ClientClosedError):
        session.step([1, 1])
    with pytest.raises(carousel.ClientClosedError):
        opened(client.attach("s"))


def test_arguments_are_checked(make_client: Callable[..., Any]) -> None:
    for wrong in ({"target": ""}, {"timeout_s": 0.0}, {"retries": -1}):
        with pytest.raises(ValueError, match=r"target|timeout_s|attempts"):
            make_client(**wrong)
    with pytest.raises(carousel.FieldInvalidError):
        make_client().generate("letters", "a", max_tokens=0)


def test_window_of_the_model_is_the_sessions() -> None:
    assert SUM.message().window_steps == WINDOW
