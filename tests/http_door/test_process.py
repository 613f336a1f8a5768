"""The HTTP door of real server processes, also behind front ends."""

from __future__ import annotations

import hashlib
import json
import subprocess

import httpx
import numpy as np
import pytest
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess

import carousel

ROWS = np.linspace(-1, 1, 3 * FEATURES, dtype="<f4").reshape(3, FEATURES)
TOKENS = json.dumps({"mine": hashlib.sha256(b"secret").hexdigest()})


@pytest.fixture(scope="module", params=[0, 2], ids=["alone", "front-ends"])
def server(request, models_dir):
    with ServerProcess(
        models_dir, http_port=0, front_ends=request.param, store="memory", tokens=TOKENS
    ) as process:
        yield process


@pytest.fixture
def http(server):
    headers = {"authorization": "Bearer secret"}
    with httpx.Client(base_url=server.http_url, headers=headers, timeout=60) as client:
        yield client


def test_the_outputs_are_those_of_grpc(server, http):
    session = http.post(f"/api/models/{LSTM}/sessions", json={}).json()["id"]
    step = {"first_seq": 1, "inputs": ROWS[:2].tolist()}
    got = http.post(f"/api/sessions/{session}/steps", json=step).json()["outputs"]["y"]
    raw = http.post(
        f"/api/sessions/{session}/steps",
        params={"first_seq": 3, "ack": 2},
        content=ROWS[2:].tobytes(),
        headers={"content-type": "application/octet-stream"},
    )
    got += np.frombuffer(raw.content, "<f4").reshape(1, -1).tolist()
    with carousel.Client(server.target, token="secret") as client:
        expected = client.infer(LSTM, ROWS)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert http.delete(f"/api/sessions/{session}").status_code == 200


def test_a_session_of_the_sdk_goes_on_by_http(server, http):
    with carousel.Client(server.target, token="secret") as client:
        session = client.session(LSTM)
        session.steps(ROWS[:2])
        session.detach()
    step = {"first_seq": 3, "inputs": ROWS[2:].tolist()}
    reply = http.post(f"/api/sessions/{session.id}/steps", json=step)
    assert reply.status_code == 200, reply.text
    assert http.get(f"/api/sessions/{session.id}").json()["applied"] == 3


def test_refusals_of_a_real_engine(http):
    session = http.post(f"/api/models/{LSTM}/sessions", json={}).json()["id"]

    def step(seq, rows):
        body = json.dumps({"first_seq": seq, "inputs": rows})
        headers = {"content-type": "application/json"}
        return http.post(f"/api/sessions/{session}/steps", content=body, headers=headers)

    assert step(1, ROWS[:1].tolist()).status_code == 200
    for seq, rows, status, reason in (
        (1, [[9.0] * FEATURES], 409, "SEQUENCE_REUSED"),
        (3, [[9.0] * FEATURES], 409, "SEQUENCE_GAP"),
        (2, [[float("nan")] * FEATURES], 400, "INPUT_NOT_FINITE"),
        (2, [[1e300] * FEATURES], 400, "INPUT_NOT_FINITE"),
    ):
        reply = step(seq, rows)
        assert (reply.status_code, reply.json()["reason"]) == (status, reason)


def test_who_may_come_in(server):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
        reply = httpx.get(f"{server.http_url}/api/models", headers=headers, timeout=60)
        assert (reply.status_code, reply.json()["reason"]) == (401, "TOKEN_INVALID")
        assert reply.headers["www-authenticate"] == "Bearer"


def test_curl(server):
    command = ["curl", "-sS", "-H", "authorization: Bearer secret"]
    done = subprocess.run(
        [*command, f"{server.http_url}/api/models/{GRU_BYTES}"], capture_output=True, timeout=60
    )
    assert json.loads(done.stdout)["vocabulary"] == 256


def test_the_metrics_count_calls(server, http):
    http.get("/api/models/none")
    server.metrics_once('carousel_http_requests_total{code="NOT_FOUND",method="GetModel"} 1.0')


def test_a_server_without_the_door(models_dir):
    with ServerProcess(models_dir) as process:
        assert process.http_port is None


def test_sigterm_ends_it_while_a_connection_is_idle(models_dir):
    with ServerProcess(models_dir, http_port=0) as process, httpx.Client(timeout=60) as client:
        assert client.get(f"{process.http_url}/api/models").status_code == 200
        assert process.stop() == 0
        assert "Traceback" not in process.text


def test_the_numbers_are_of_the_whole_server(http):
    before = http.get("/api/metrics").json()
    session = http.post(f"/api/models/{LSTM}/sessions", json={}).json()["id"]
    body = {"first_seq": 1, "inputs": ROWS.tolist()}
    assert http.post(f"/api/sessions/{session}/steps", json=body).status_code == 200
    after = http.get("/api/metrics").json()
    assert after["scope"] == "server"  # there is one tenant
    assert after["at_s"] > before["at_s"]
    old, new = before["models"][LSTM], after["models"][LSTM]
    assert new["healthy"] is True
    assert new["carousel_steps_total"] == old["carousel_steps_total"] + len(ROWS)
    assert new["carousel_tick_seconds"]["counts"][-1] > old["carousel_tick_seconds"]["counts"][-1]
