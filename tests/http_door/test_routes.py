"""Models, sessions, steps and sequences over HTTP, on a wire with fake engines."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.wire import settled

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports
from carousel_server.http.sessions import session_object

ROW = np.arange(WIDTH, dtype="<f4")
RAW = {"content-type": "application/octet-stream"}


async def opened(door, **fields):
    reply = await door.http.post("/api/models/echo/sessions", json=fields)
    assert reply.status_code == 201, reply.text
    assert reply.headers["location"] == f"/api/sessions/{reply.json()['id']}"
    return reply.json()


async def refused(call, status, reason):
    reply = await call
    assert (reply.status_code, reply.json()["reason"]) == (status, reason), reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.json()


async def test_models(door):
    listed = (await door.http.get("/api/models")).json()
    assert [model["name"] for model in listed["models"]] == ["echo", "echo-tokens"]
    one = (await door.http.get("/api/models/echo")).json()
    assert one == listed["models"][0]
    assert one["input"] == {"name": "x", "dtype": "float32", "shape": [WIDTH]}
    assert one["states"][1] == {"name": "half", "dtype": "bfloat16", "shape": []}
    assert one["initials"] == ["anna", "otto"]
    page = (await door.http.get("/api/models", params={"page_size": 1})).json()
    assert [model["name"] for model in page["models"]] == ["echo"]
    rest = await door.http.get("/api/models", params={"page_token": page["next_page_token"]})
    assert [model["name"] for model in rest.json()["models"]] == ["echo-tokens"]


async def test_the_life_of_a_session(door):
    session = await opened(door, session_id="mine", idle_ttl_s=7.5, seed=2**63, initial="anna")
    assert (session["id"], session["model"], session["initial"]) == ("mine", "echo", "anna")
    assert (session["idle_ttl_s"], session["seed"]) == (7.5, str(2**63))
    assert (await door.http.get("/api/sessions/mine")).json()["applied"] == 0
    assert [s["id"] for s in (await door.http.get("/api/sessions")).json()["sessions"]] == ["mine"]
    closed = await door.http.delete("/api/sessions/mine")
    assert (closed.status_code, closed.json()["id"]) == (200, "mine")
    await refused(door.http.get("/api/sessions/mine"), 404, "SESSION_NOT_FOUND")


def test_a_session_as_json_has_every_field_of_the_message():
    session = pb.Session(phase=pb.PHASE_RESIDENT, holder="replica-2:50051")
    found = session_object(session)
    fields = pb.Session.DESCRIPTOR.fields_by_name
    assert found.keys() == {"idle_ttl_s" if name == "idle_ttl" else name for name in fields}
    assert (found["holder"], found["phase"]) == ("replica-2:50051", "resident")


async def test_steps_as_json(door):
    session = await opened(door)
    path = f"/api/sessions/{session['id']}/steps"
    rows = [[1, 2, 3, 4], [0.5, 0.25, -1e-3, 1e30]]
    reply = (await door.http.post(path, json={"first_seq": 1, "inputs": rows})).json()
    assert reply["first_seq"] == 1
    np.testing.assert_array_equal(reply["outputs"]["y"], np.array(rows, "<f4"))
    assert (await door.http.get(f"/api/sessions/{session['id']}")).json()["applied"] == 2


async def test_a_repeated_step_runs_once(door):
    session = await opened(door)
    path = f"/api/sessions/{session['id']}/steps"
    step = {"first_seq": 1, "inputs": [ROW.tolist()]}
    first = await door.http.post(path, json=step)
    again = await door.http.post(path, json=step)
    assert first.json() == again.json()
    assert (await door.http.get(f"/api/sessions/{session['id']}")).json()["applied"] == 1


async def test_a_session_of_grpc_steps_by_http_without_another_binding(door):
    session = await door.stubs.open("echo")
    from carousel_protos.v1 import carousel_pb2 as pb

    request = pb.StepRequest(session_id=session.id, first_seq=1, inputs=ROW.tobytes())
    await door.stubs.inference.Step(request)
    step = {"first_seq": 2, "inputs": [ROW.tolist()], "ack": 1}
    reply = await door.http.post(f"/api/sessions/{session.id}/steps", json=step)
    assert reply.status_code == 200
    assert sum(isinstance(seen, ports.Bind) for seen in door.engine.seen) == 1


async def test_steps_as_bytes(door):
    session = await opened(door)
    path = f"/api/sessions/{session['id']}/steps"
    query = {"first_seq": 1, "resets": "01"}
    body = np.concatenate([ROW, ROW]).tobytes()
    reply = await door.http.post(path, params=query, content=body, headers=RAW)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert (reply.content, reply.headers["carousel-first-seq"]) == (body, "1")
    (block,) = (seen for seen in door.engine.seen if isinstance(seen, ports.StepBlock))
    assert block.resets == b"\0\1"
    wanted = {**RAW, "accept": "application/json"}
    query = {"first_seq": 3, "ack": 2}
    reply = await door.http.post(path, params=query, content=body, headers=wanted)
    assert reply.json()["outputs"]["y"] == [ROW.tolist()] * 2


async def test_json_in_and_bytes_out(door):
    session = await opened(door)
    step = {"first_seq": 1, "inputs": [ROW.tolist()], "resets": [True]}
    reply = await door.http.post(
        f"/api/sessions/{session['id']}/steps",
        json=step,
        headers={"accept": "application/octet-stream"},
    )
    assert reply.content == ROW.tobytes()


async def test_whole_sequences(door):
    rows = np.arange(3 * WIDTH, dtype="<f4").reshape(3, WIDTH)
    reply = await door.http.post("/api/models/echo/infer", json={"inputs": rows.tolist()})
    assert reply.json() == {"steps": 3, "outputs": {"y": rows.tolist()}}
    raw = await door.http.post("/api/models/echo/infer", content=rows.tobytes(), headers=RAW)
    assert (raw.content, raw.headers["carousel-steps"]) == (rows.tobytes(), "3")
    text = await door.http.post("/api/models/echo-tokens/infer", json={"text": "hi"})
    assert text.json()["outputs"] == {"y": [104, 105]}


async def test_fork_and_state(door):
    session = await opened(door, session_id="one")
    forked = await door.http.post("/api/sessions/one/fork", json={"new_session_id": "two"})
    assert (forked.status_code, forked.json()["id"]) == (201, "two")
    read = (await door.http.get("/api/sessions/one/state")).json()
    assert [state["name"] for state in read["state"]] == ["h", "half", "flag", "lowest"]
    assert read["session"]["id"] == session["id"]


BAD_STEPS = [
    ({"first_seq": 1}, "FIELD_INVALID", "inputs"),
    ({"first_seq": 0, "inputs": [[1, 2, 3, 4]]}, "FIELD_INVALID", "first_seq"),
    ({"first_seq": -1, "inputs": [[1, 2, 3, 4]]}, "FIELD_INVALID", "first_seq"),
    ({"first_seq": 1, "inputs": []}, "FIELD_INVALID", "inputs"),
    ({"first_seq": 1, "inputs": [[1, 2, 3, 4]], "more": 1}, "FIELD_INVALID", "more"),
    ({"first_seq": 1, "inputs": [["1", "2", "3", "4"]]}, "FIELD_INVALID", "inputs"),
    ({"first_seq": 1, "inputs": [[None, 2, 3, 4]]}, "FIELD_INVALID", "inputs"),
    ({"first_seq": 1, "inputs": [[1, 2]] * 2}, "INPUT_SHAPE", "inputs"),
    ({"first_seq": 1, "inputs": [1, 2, 3, 4]}, "INPUT_SHAPE", "inputs"),
    ({"first_seq": 1, "inputs": [[1, 2, 3, 4], [1]]}, "INPUT_SHAPE", "inputs"),
    ({"first_seq": 1, "inputs": [[1, 2, 3, 4]], "resets": [True] * 2}, "FIELD_INVALID", "resets"),
    ({"first_seq": 3, "inputs": [[1, 2, 3, 4]]}, "SEQUENCE_GAP", None),
]


@pytest.mark.parametrize(("body", "reason", "field"), BAD_STEPS)
async def test_bad_steps_are_named(door, body, reason, field):
    session = await opened(door)
    reply = await door.http.post(f"/api/sessions/{session['id']}/steps", json=body)
    problem = reply.json()
    assert (problem["reason"], problem.get("field")) == (reason, field)
    assert problem["status"] == reply.status_code


async def test_integers_for_a_model_of_tokens(door):
    fractions = door.http.post("/api/models/echo-tokens/infer", json={"inputs": [1.5]})
    assert (await refused(fractions, 400, "INPUT_DTYPE"))["field"] == "inputs"
    await refused(
        door.http.post("/api/models/echo-tokens/infer", json={"inputs": [2**40]}),
        400,
        "UNKNOWN_TOKEN",
    )


async def test_a_body_must_say_that_it_is_json(door):
    """So that a form of another site's page, which a browser sends without asking, does nothing."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        call = door.http.post(
            "/api/models/echo/sessions", content=b"{}", headers={"content-type": kind}
        )
        assert (await refused(call, 400, "FIELD_INVALID"))["field"] == "content-type"
    assert not door.engine.sessions


async def test_broken_json(door):
    call = door.http.post(
        "/api/models/echo/sessions",
        content=b'{"seed":',
        headers={"content-type": "application/json"},
    )
    await refused(call, 400, "MALFORMED_MESSAGE")


async def test_an_unknown_path_and_a_wrong_verb(door):
    reply = await door.http.get("/nowhere")
    assert (reply.status_code, reply.json()["type"]) == (404, "about:blank")
    reply = await door.http.put("/api/models")
    assert reply.status_code == 405
    assert "GET" in reply.headers["allow"]


async def test_the_request_id_goes_back(door):
    reply = await door.http.get("/api/models", headers={"x-request-id": "mine-1"})
    assert reply.headers["x-request-id"] == "mine-1"
    problem = await door.http.get("/api/models/none", headers={"x-request-id": "mine-2"})
    assert problem.json()["request_id"] == problem.headers["x-request-id"] == "mine-2"
    other = await door.http.get("/api/models", headers={"x-request-id": 'not "fit"'})
    assert other.headers["x-request-id"] != 'not "fit"'


async def test_the_callers_time_is_over(door):
    door.engine.hold()
    call = door.http.post(
        "/api/models/echo/infer",
        json={"inputs": [ROW.tolist()]},
        headers={"carousel-timeout-s": "0.05"},
    )
    await refused(call, 504, "DEADLINE_EXCEEDED")
    door.engine.release()
    bad = door.http.get("/api/models", headers={"carousel-timeout-s": "-1"})
    assert (await refused(bad, 400, "FIELD_INVALID"))["field"] == "carousel-timeout-s"


async def test_calls_are_counted_as_calls(door):
    await door.http.get("/api/models")
    await door.http.get("/api/models/none")
    await settled(lambda: len(door.metrics.ended) >= 2)
    assert ("ListModels", "unary", "OK") in door.metrics.ended
    assert ("GetModel", "unary", "NOT_FOUND") in door.metrics.ended


async def test_a_client_that_goes_withdraws_its_sequence(door):
    door.engine.hold()
    call = asyncio.ensure_future(
        door.http.post("/api/models/echo/infer", json={"inputs": [ROW.tolist()]})
    )
    await settled(lambda: any(isinstance(seen, ports.Infer) for seen in door.engine.seen))
    call.cancel()
    await settled(lambda: ("Infer", "unary", "CANCELLED") in door.metrics.ended)
    (command,) = (seen for seen in door.engine.seen if isinstance(seen, ports.Infer))
    assert command.reply.cancelled()
    door.engine.release()


async def test_a_drain_refuses_and_closes_connections(door):
    session = await opened(door)
    await door.doors.drain(5)
    step = {"first_seq": 1, "inputs": [ROW.tolist()]}
    reply = await door.http.post(f"/api/sessions/{session['id']}/steps", json=step)
    assert (reply.status_code, reply.json()["reason"]) == (503, "DRAINING")
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.headers["connection"] == "close"


async def test_a_defect_has_its_request_id(door, caplog):
    door.engine.healthy = True
    door.wire.methods.models.list_models = None
    problem = await refused(door.http.get("/api/models"), 500, "INTERNAL")
    assert problem["request_id"] in problem["detail"]
    assert problem["request_id"] in caplog.text


async def test_every_call_of_the_door_is_known_to_the_metrics():
    from starlette.routing import Route, WebSocketRoute
    from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine

    from carousel_server.core.metering import HTTP, HTTP_METHODS
    from carousel_server.http import app
    from carousel_server.http.endpoint import Endpoint
    from carousel_server.http.sockets import SocketEndpoint
    from carousel_server.wire import WireOptions, WireServer

    wire = WireServer(FakeCatalog(FakeEngine()), WireOptions(http_port=0), CountingMetrics())
    routes = app.application(wire).routes
    endpoints = [one.endpoint for one in routes if isinstance(one, Route | WebSocketRoute)]
    named = {e.method for e in endpoints if isinstance(e, Endpoint) and e.service == HTTP}
    named |= {e.method for e in endpoints if isinstance(e, SocketEndpoint)}
    assert named == HTTP_METHODS
