"""States by name: chosen or given at open, and read between two steps, the same for both clients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import carousel
from carousel import exceptions
from carousel.testing import FakeModel, FakeServer
from carousel.types import TensorInfo

from .support import opened


def _two(x: Any, state: Any) -> tuple[Any, Any]:
    """Adds to the one, counts in the other."""
    state = {"h": state["h"] + x, "n": state["n"] + 1}
    return np.append(state["h"], state["n"]).astype(np.float32), state


TWO = FakeModel(
    "two",
    _two,
    features=2,
    outputs=3,
    initial={"h": np.zeros(2, np.float32), "n": np.int64(0)},
    initials={"anna": {"h": np.array([10, 20], np.float32), "n": np.int64(5)}},
)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer(TWO, durable=True) as server:
        yield server


def test_states_of_any_objects_are_not_shown() -> None:
    """A fake model may keep what it likes, also what is no array."""

    def step(x: Any, seen: Any) -> tuple[Any, Any]:
        return np.asarray([seen[0]], np.float32), (seen[0] + 1, [*seen[1], x])

    model = FakeModel("log", step, features=1, initial=(0, []))
    assert not model.message().states
    with (
        FakeServer(model) as server,
        carousel.Client(server.target) as client,
        client.session("log") as session,
    ):
        assert session.steps([[1], [1]]).tolist() == [[0], [1]]
        assert session.state() == {}


def test_a_model_tells_its_states(client: Any) -> None:
    info = client.model("two")
    assert info.states == (TensorInfo("h", "<f4", (2,)), TensorInfo("n", "<i8", ()))
    assert info.initials == ("anna",)


def test_a_session_begins_as_it_chooses(client: Any) -> None:
    with client.session("two", initial="anna") as session:
        assert session.info().initial == "anna"
        assert session.step([1, 1]).tolist() == [11, 21, 6]
    with client.session("two") as session:
        assert session.info().initial == ""
        assert session.step([1, 1]).tolist() == [1, 1, 1]


def test_a_reset_goes_back_to_what_was_chosen(client: Any) -> None:
    with client.session("two", initial="anna", state={"h": [0, 0]}) as session:
        assert session.step([1, 1]).tolist() == [1, 1, 6]
        session.reset()
        assert session.step([1, 1]).tolist() == [11, 21, 6]


def test_a_name_that_the_model_lacks(client: Any) -> None:
    with pytest.raises(exceptions.InitialUnknownError) as refused:
        opened(client.session("two", initial="eve"))
    assert refused.value.metadata["known"] == "anna"
    with pytest.raises(exceptions.InitialUnknownError):
        client.infer("two", [[1, 1]], initial="eve")


def test_whole_sequences_choose_too(client: Any) -> None:
    assert client.infer("two", [[1, 1]], initial="anna").tolist() == [[11, 21, 6]]


def test_a_state_goes_in_and_comes_out(client: Any) -> None:
    with client.session("two", initial="anna", state={"h": [1, 2]}) as session:
        state = session.state()
        assert {name: array.tolist() for name, array in state.items()} == {"h": [1, 2], "n": 5}
        assert [array.dtype for array in state.values()] == [np.float32, np.int64]
        session.steps([[1, 1], [2, 2]])
        state = session.state()
        state["h"] += 1  # it is the caller's
        assert session.state()["h"].tolist() == [4, 5]
    with client.session("two", state=state) as session:
        assert session.step([0, 0]).tolist() == [5, 6, 8]


def test_a_given_state_survives_a_crash(client: Any, fake: FakeServer) -> None:
    asked = client.session("two", durability="sync", initial="anna", state={"h": [1, 2]})
    session = opened(asked)
    fake.crash()
    assert session.step([0, 0]).tolist() == [1, 2, 6]
    assert session.info().initial == "anna"


def test_copies_keep_the_state(client: Any) -> None:
    with client.session("two", initial="anna") as session:
        session.step([1, 1])
        for made in (session.fork(), client.import_session(session.export())):
            with made as copy:
                assert copy.state()["h"].tolist() == [11, 21]
                assert copy.info().initial == "anna"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"g": [1, 2]}, "no state 'g'; it has h, n"),
        ({"h": [1, 2, 3]}, r"shape \[2\], not \[3\]"),
        ({"h": [[1, 2]]}, r"not \[1, 2\]"),
        ({"n": 0.5}, "cannot hold this float64"),
        ({"h": [1j, 0]}, "cannot hold this complex128"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_it_is_sent(
    client: Any, fake: FakeServer, state: Any, text: str
) -> None:
    with pytest.raises(exceptions.StateInvalidError, match=text):
        opened(client.session("two", state=state))
    assert not list(client.sessions())


def test_a_state_that_is_not_finite_is_refused_by_the_server(client: Any) -> None:
    with pytest.raises(exceptions.StateInvalidError, match="NaN or an infinity"):
        opened(client.session("two", state={"h": [1, math.nan]}))


def test_a_masked_state_is_refused(client: Any) -> None:
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    with pytest.raises(exceptions.InputDtypeError, match="masked"):
        opened(client.session("two", state={"h": masked}))


def test_a_generation_chooses_for_a_session_of_its_own(make_client: Any) -> None:
    def next_byte(x: Any, state: Any) -> tuple[Any, Any]:
        logits = np.zeros(256, np.float32)
        logits[(int(x) + int(state)) % 256] = 5.0
        return logits, state

    model = FakeModel(
        "text", next_byte, outputs=256, vocabulary=256, tokenizer="bytes", initial=1.0,
        initials={"two": 2.0},
    )  # fmt: skip
    with FakeServer(model) as server:
        client = make_client(server.target, timeout_s=10.0)
        options = {"max_tokens": 3, "temperature": 0.0}
        assert client.generate("text", "a", **options).text() == "bcd"
        assert client.generate("text", "a", initial="two", **options).text() == "ceg"
