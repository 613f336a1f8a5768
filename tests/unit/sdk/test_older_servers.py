"""A server from before resets and initial states would ignore them, so nothing is sent there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from carousel import exceptions
from carousel.testing import FakeModel, FakeServer
from carousel_protos.v1 import carousel_pb2 as pb

from .support import opened


class OldModel(FakeModel):
    """A model as a server without resets describes it."""

    def message(self) -> pb.Model:
        message = super().message()
        message.ClearField("resets")
        message.ClearField("states")
        message.ClearField("initials")
        return message


def _sum(x: Any, state: Any) -> tuple[Any, Any]:
    return np.asarray([x[0] + state], np.float32), x[0] + state


OLD = OldModel("old", _sum, features=1)
TEXT = OldModel(
    "text", lambda x, h: (np.zeros(256, np.float32), h), outputs=256, vocabulary=256, tokenizer="bytes"
)  # fmt: skip


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer(OLD, TEXT) as server:
        yield server


def test_steps_with_resets_are_not_sent(client: Any) -> None:
    with client.session("old") as session:
        session.step([1])
        with pytest.raises(exceptions.ServerTooOldError, match="model old is from before resets"):
            session.reset()
        with pytest.raises(exceptions.ServerTooOldError):
            session.steps([[1], [2]], resets=[False, True])
        batch = client.batch([session])
        with pytest.raises(exceptions.ServerTooOldError):
            batch.step([[1]], resets=[True])
        with pytest.raises(exceptions.ServerTooOldError):
            batch.steps([[[1]]], resets=[[True]])
        assert session.steps([[1]], resets=[False]).tolist() == [[2]]
        assert session.applied == 2


def test_initial_states_are_not_chosen(client: Any) -> None:
    with pytest.raises(exceptions.ServerTooOldError):
        opened(client.session("old", initial="anna"))
    with pytest.raises(exceptions.ServerTooOldError):
        client.infer("old", [[1]], initial="anna")
    with pytest.raises(exceptions.ServerTooOldError):
        list(client.generate("text", "a", initial="anna", max_tokens=1))
    assert list(client.generate("text", "a", max_tokens=1))
    assert list(client.sessions()) == []
