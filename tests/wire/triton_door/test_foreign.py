"""No request steps a session that is not its sequence's own, whatever others have opened."""

from __future__ import annotations

import numpy as np
from support.fake_engine import WIDTH
from support.wire import refused

from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import OpenSpec

ROW = np.arange(WIDTH, dtype="<f4")


def open_elsewhere(wire, session_id):
    """A session of a sequence's name on another model, on the row that the first one has on its own."""
    tenant = next(iter(wire.engine.sessions.values())).spec.tenant
    wire.tokens.submit(ports.Open(OpenSpec(tenant, session_id)))
    session = wire.tokens.session(session_id)
    assert session.ref in wire.engine.sessions
    return session


async def test_a_sequence_of_another_models_session_does_not_touch_the_row_of_its_number(
    wire, fake
):
    await fake.infer("echo", ROW, 9, start=True)
    victim, foreign = wire.engine.session("triton:echo:9"), open_elsewhere(wire, "triton:echo:100")
    error = await refused(fake.infer("echo", ROW, 100))
    assert error.reason == "SESSION_EXISTS"
    assert error.metadata["model"] == "echo-tokens"
    assert (victim.applied, victim.tag) == (1, 1)
    assert foreign.sink is None
    await fake.infer("echo", ROW, 9)
    assert victim.applied == 2


async def test_a_start_closes_no_other_models_session(wire, fake, monkeypatch):
    await fake.infer("echo", ROW, 9, start=True)
    foreign = open_elsewhere(wire, "triton:echo:100")

    def claimed(command):
        raise CarouselError("SESSION_EXISTS", "on another model")  # as the directory says it

    monkeypatch.setattr(wire.engine, "_open", claimed)
    error = await refused(fake.infer("echo", ROW, 100, start=True))
    assert error.reason == "SESSION_EXISTS"
    assert error.metadata["model"] == "echo-tokens"
    assert foreign.ref in wire.tokens.sessions
    assert wire.engine.session("triton:echo:9").applied == 1


async def test_each_binding_says_whose_session_it_means(wire, fake):
    await fake.infer("echo", ROW, 9, start=True)
    tenant = wire.engine.session("triton:echo:9").spec.tenant
    keys = [command.key for command in wire.engine.seen if isinstance(command, ports.Bind)]
    assert keys == [(tenant, "triton:echo:9")]
