"""No request steps a session that is not its sequence's own, whatever others have opened."""

from __future__ import annotations

import numpy as np
from support.fake_engine import WIDTH
from support.wire import refused

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import OpenSpec
from carousel_server.wire.auth import DEFAULT_TENANT

ROW = np.arange(WIDTH, dtype="<f4")


def open_elsewhere(wire, session_id):
    """A session of a sequence's name on another model, on the row that the first one has on its own."""
    wire.tokens.submit(ports.Open(OpenSpec(DEFAULT_TENANT, session_id)))
    session = wire.tokens.session(session_id)
    assert session.ref in wire.engine.sessions
    return session


async def test_a_sequence_of_another_models_session_does_not_touch_the_row_of_its_number(
    wire, fake
):
    await fake.infer("echo", ROW, 9, start=True)
    victim, foreign = wire.engine.session("triton:echo:9"), open_elsewhere(wire, "triton:echo:100")
    tag = victim.tag
    error = await refused(fake.infer("echo", ROW, 100))
    assert error.reason == "SESSION_EXISTS"
    assert error.metadata["model"] == "echo-tokens"
    assert (victim.applied, victim.tag) == (1, tag)
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
    keys = [command.key for command in wire.engine.seen if isinstance(command, ports.Bind)]
    assert keys == [(DEFAULT_TENANT, "triton:echo:9")]


# -- through carousel.v1


async def test_only_the_door_opens_sessions_of_its_names(wire, fake):
    await wire.stubs.open("echo", "mine")
    name, sessions = "triton:echo:100", wire.stubs.sessions
    stream = await wire.stubs.attach()
    await stream.say(
        bind=pb.Bind(handle=1, open=pb.OpenSessionRequest(model="echo", session_id=name))
    )
    assert (await stream.hear()).WhichOneof("event") == "failure"
    for asked, field in (
        (wire.stubs.open("echo", name), "session_id"),
        (wire.stubs.open("echo", "triton:"), "session_id"),
        (
            sessions.ImportSession(pb.ImportSessionRequest(snapshot=b"snapshot", session_id=name)),
            "session_id",
        ),
        (
            sessions.ForkSession(pb.ForkSessionRequest(session_id="mine", new_session_id=name)),
            "new_session_id",
        ),
    ):
        error = await refused(asked)
        assert (error.reason, error.bad_request.field_violations[0].field) == (
            "FIELD_INVALID",
            field,
        )
    assert (await wire.stubs.open("echo", "a:triton:1")).id == "a:triton:1"
    assert len(wire.engine.sessions) == 2


async def test_all_else_can_be_done_with_a_sequences_session(wire, fake):
    await fake.infer("echo", ROW, 7, start=True)
    name, sessions = "triton:echo:7", wire.stubs.sessions
    found = await sessions.ListSessions(pb.ListSessionsRequest())
    assert [session.id for session in found.sessions] == [name]
    got = await sessions.GetSession(pb.GetSessionRequest(session_id=name))
    assert got.session.applied == 1
    taken = await sessions.ExportSession(pb.ExportSessionRequest(session_id=name))
    assert taken.session.id == name
    forked = await sessions.ForkSession(pb.ForkSessionRequest(session_id=name, new_session_id="f"))
    assert forked.session.id == "f"
    stream = await wire.stubs.attach()
    await stream.bind(1, session_id=name)
    assert await stream.step(1, 2, ROW[None]) == ROW.tobytes()
    await sessions.CloseSession(pb.CloseSessionRequest(session_id=name))
    assert (await refused(fake.infer("echo", ROW, 7))).reason == "SEQUENCE_NOT_STARTED"
