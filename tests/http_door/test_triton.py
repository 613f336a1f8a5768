"""Triton's protocol over HTTP: its own client, JSON by hand, and the sequences of the gRPC door."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import numpy as np
import pytest
from support.server import FEATURES, LSTM, ServerProcess
from support.triton import TritonStubs

ROW = np.linspace(0, 1, FEATURES, dtype="<f4").reshape(1, FEATURES)
CLIENT = """
import sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, model, features = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = triton.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready(model) and not client.is_model_ready("none")
assert client.get_server_metadata()["name"] == "carousel"
about = client.get_model_metadata(model)
assert client.get_model_config(model)["max_batch_size"] == 1
row = np.linspace(0, 1, features, dtype=np.float32).reshape(1, features)
name, output = about["inputs"][0]["name"], about["outputs"][0]["name"]
got = []
for n, binary in enumerate((True, False, True)):
    given = triton.InferInput(name, list(row.shape), "FP32")
    given.set_data_from_numpy(row, binary_data=binary)
    wanted = None if n == 2 else [triton.InferRequestedOutput(output, binary_data=binary)]
    result = client.infer(
        model, [given], outputs=wanted, sequence_id=7, sequence_start=n == 0,
        sequence_end=n == 2, request_id=str(n + 1),
        headers=None if binary else {"content-type": "application/json"},
    )
    assert result.get_response()["id"] == str(n + 1)
    got.append(result.as_numpy(output).tolist())
try:
    client.infer(model, [given], sequence_id=7)
except InferenceServerException as error:
    assert "SEQUENCE_NOT_STARTED" in error.message(), error
else:
    raise AssertionError("a sequence that had ended went on")
print(got)
"""


@pytest.fixture(scope="module")
def server(models_dir):
    with ServerProcess(models_dir, http_port=0) as process:
        yield process


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.http_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def names(server):
    about = httpx.get(f"{server.http_url}/v2/models/{LSTM}", timeout=60).json()
    assert about["inputs"][0]["shape"] == [-1, FEATURES]
    return about["inputs"][0]["name"], about["outputs"][0]["name"]


def body_of(names, row=ROW, **parameters):
    given = {"name": names[0], "shape": [1, FEATURES], "datatype": "FP32", "data": row.tolist()}
    return {"id": "a", "parameters": parameters, "inputs": [given]}


def infer(http, names, row=ROW, **parameters):
    return http.post(f"/v2/models/{LSTM}/infer", json=body_of(names, row, **parameters))


def three_steps(http, names, sequence_id):
    got = []
    for n in range(3):
        reply = infer(
            http, names, sequence_id=sequence_id, sequence_start=n == 0, sequence_end=n == 2
        )
        assert reply.status_code == 200, reply.text
        got.append(reply.json()["outputs"][0]["data"])
    return got


def test_tritons_own_client(server, http, names):
    pytest.importorskip("tritonclient.http")
    address = f"127.0.0.1:{server.http_port}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLIENT, address, LSTM, str(FEATURES)],
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    by_client = np.array(json.loads(done.stdout)).reshape(3, -1)
    np.testing.assert_allclose(by_client, three_steps(http, names, 8), rtol=1e-6)


async def test_a_sequence_of_both_doors(server, http, names):
    """One sequence, stepped by HTTP, then gRPC, then HTTP."""
    from carousel_protos.triton import inference_pb2 as pb

    expected = three_steps(http, names, 20)
    one = infer(http, names, sequence_id=21, sequence_start=True).json()
    request = pb.ModelInferRequest(model_name=LSTM, raw_input_contents=[ROW.tobytes()])
    request.inputs.add(name=names[0], datatype="FP32", shape=[1, FEATURES])
    request.parameters["sequence_id"].int64_param = 21
    async with TritonStubs(server.target) as stubs:
        two = await stubs.ask("ModelInfer", request)
    three = infer(http, names, sequence_id=21, sequence_end=True).json()
    got = [
        one["outputs"][0]["data"],
        np.frombuffer(two.raw_output_contents[0], "<f4").tolist(),
        three["outputs"][0]["data"],
    ]
    assert got == expected
    assert one["model_version"] == "1"
    assert one["id"] == "a"


def test_health_and_models(http):
    assert http.get("/v2").json()["name"] == "carousel"
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{LSTM}/versions/1/ready"):
        assert http.get(path).status_code == 200
    assert http.get("/v2/models/none/ready").status_code == 503
    config = http.get(f"/v2/models/{LSTM}/config").json()
    assert config["sequence_batching"]
    missing = http.get("/v2/models/none")
    assert missing.status_code == 404
    assert "(MODEL_NOT_FOUND" in missing.json()["error"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inputs": 3}, "FIELD_INVALID"),
        ({"parameters": {"sequence_id": []}}, "FIELD_INVALID"),
        ({"parameters": {"sequence_id": 99}}, "SEQUENCE_NOT_STARTED"),
        ({"parameters": {"sequence_id": 99, "sequence_start": 1}}, "FIELD_INVALID"),
        ({"id": 1}, "FIELD_INVALID"),
        ({"outputs": [{"name": "none"}]}, "FIELD_INVALID"),
    ],
)
def test_refusals(http, names, change, reason):
    body = {**body_of(names, sequence_id=98, sequence_start=True), **change}
    reply = http.post(f"/v2/models/{LSTM}/infer", json=body)
    assert reply.status_code == 400
    assert f"({reason}" in reply.json()["error"]


def test_bytes_that_do_not_fit(http, names):
    given = {"name": names[0], "shape": [1, FEATURES], "datatype": "FP32"}
    given["parameters"] = {"binary_data_size": 16}
    head = json.dumps({"inputs": [given]}).encode()
    path = f"/v2/models/{LSTM}/infer"
    for behind in (b"\0" * 15, b"\0" * 17):
        headers = {"inference-header-content-length": str(len(head))}
        reply = http.post(path, content=head + behind, headers=headers)
        assert reply.status_code == 400
        assert "binary_data_size" in reply.json()["error"]
    reply = http.post(path, content=head, headers={"inference-header-content-length": "9999"})
    assert reply.status_code == 400
    reply = http.post(path, content=head, headers={"content-type": "text/plain"})
    assert "content-type" in reply.json()["error"]
