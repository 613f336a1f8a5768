"""New weights under an old name: what becomes of the sessions that the store keeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.server import FEATURES, LSTM, ServerProcess

import carousel
from carousel_models import create

ROW = np.ones(FEATURES, np.float32)


def write(models: Path, name: str, hidden: int) -> None:
    """A package with other weights than before."""
    shutil.rmtree(models / name, ignore_errors=True)
    shape = {"input": f"features:{FEATURES}", "output": 3}
    create(name, cell="lstm", hidden=hidden, dir=models, **shape)


@pytest.mark.parametrize("front_ends", [0, 1])
@pytest.mark.parametrize("kind", ["same name", "removed"])
def test_old_sessions_are_refused_by_name_and_can_be_closed(
    kind: str, front_ends: int, tmp_path: Path
) -> None:
    models, store = tmp_path / "models", f"sqlite:{tmp_path}/sessions.db"
    models.mkdir()
    write(models, LSTM, 16)
    with (
        ServerProcess(models, store=store) as server,
        carousel.Client(server.target) as client,
    ):
        for number in range(2):
            client.session(LSTM, session_id=f"s{number}", durability="sync").step(ROW)
        former = client.model(LSTM).fingerprint
    if kind == "same name":
        write(models, LSTM, 8)
    else:
        shutil.rmtree(models / LSTM)
    write(models, "newer", 8)
    with (
        ServerProcess(models, store=store, front_ends=front_ends) as server,
        carousel.Client(server.target) as client,
    ):
        assert client.session_info("s0").fingerprint == former, (
            "of its state, not of what is served"
        )
        assert {info.fingerprint for info in client.sessions()} == {former}
        refusal = carousel.CarouselError
        with pytest.raises(refusal) as caught:
            client.attach("s0")
        expected = "FINGERPRINT_MISMATCH" if kind == "same name" else "MODEL_NOT_FOUND"
        assert caught.value.reason == expected
        assert caught.value.fix
        if kind == "same name":
            assert "or close the session" in caught.value.message
        assert client.close_session("s0").applied == 1
        with pytest.raises(refusal) as caught:
            client.close_session("s0")
        assert caught.value.reason == "SESSION_CLOSED"
        assert [info.id for info in client.sessions()] == ["s1"]
        session = client.session("newer", session_id="s0", durability="sync")
        session.step(ROW)
        assert session.info().applied == 1, "its name is free again"
        assert "Traceback" not in server.text
