"""A real server with random weights under the names of the zoo, for the examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.server import ServerProcess

from carousel._options import CHANNEL_OPTIONS
from carousel_models import create
from carousel_models.spec import SelectArgmax


@pytest.fixture(scope="module")
def zoo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("zoo")
    create("sunspots-gru", cell="gru", hidden=8, input="features:1", output=1, dir=models)
    create("pychar-lstm", cell="lstm", hidden=16, input="tokens:256x8", dir=models)
    create(
        "pytag-bilstm",
        cell="lstm",
        hidden=8,
        input="tokens:256x8",
        output=5,
        bidirectional=True,
        select=SelectArgmax(),
        dir=models,
    )
    with ServerProcess(models, slots=128) as process:
        yield process


@pytest.fixture
def quick_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed in seconds, as facts of the connection and not as a caller's timeout."""
    quick = {
        "grpc.keepalive_time_ms": 6_000,  # a server refuses pings more often than every 5 s
        "grpc.keepalive_timeout_ms": 2_000,
        "grpc.http2.ping_timeout_ms": 2_000,
    }
    options = [(name, quick.get(name, value)) for name, value in CHANNEL_OPTIONS]
    assert len(quick) == len([o for o in CHANNEL_OPTIONS if o not in options])
    monkeypatch.setattr("carousel._options.CHANNEL_OPTIONS", options)
