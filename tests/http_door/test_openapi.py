"""The OpenAPI document says what the routes take and answer."""

from __future__ import annotations

import jsonschema
import pytest
from starlette.routing import Route
from support.fake_engine import WIDTH

from carousel_server.http import page
from carousel_server.http.openapi import OPERATIONS, PATH

ROWS = [[0.5] * WIDTH]
CALLS = {
    ("GET", "/api/models"): {},
    ("GET", "/api/models/{model}"): {},
    ("POST", "/api/models/{model}/sessions"): {"json": {"durability": "none", "idle_ttl_s": 9}},
    ("GET", "/api/sessions"): {"params": {"model": "echo", "page_size": 5}},
    ("GET", "/api/sessions/{session}"): {},
    ("POST", "/api/sessions/{session}/fork"): {"json": {"seed": 3}},
    ("GET", "/api/sessions/{session}/state"): {},
    ("POST", "/api/sessions/{session}/steps"): {"json": {"first_seq": 1, "inputs": ROWS}},
    ("POST", "/api/models/{model}/infer"): {"json": {"inputs": ROWS}},
    ("POST", "/api/models/{model}/generate"): {"json": {"prompt": "a", "max_tokens": 2}},
    ("POST", "/api/sessions/{session}/generate"): {"json": {"tokens": [1], "max_tokens": 2}},
    ("GET", "/api/metrics"): {},
    ("POST", "/v1/completions"): {"json": {"model": "echo-tokens", "prompt": "a"}},
    ("GET", "/v1/models"): {},
    ("GET", "/v1/models/{model}"): {},
    ("DELETE", "/api/sessions/{session}"): {},
}


@pytest.fixture
async def document(door):
    reply = await door.http.get(PATH)
    assert reply.status_code == 200
    return reply.json()


def validate(document, schema, value):
    whole = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


async def test_it_has_every_route(door, document):
    from carousel_server.http.app import application

    pages = {route.path for route in page.routes()}
    routes = {
        (verb, route.path)
        for route in application(door.wire).routes
        if isinstance(route, Route) and not route.path.startswith("/v2")
        if route.path not in pages
        for verb in route.methods - {"HEAD"}
    }
    listed = {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs}
    assert listed == set(OPERATIONS) == set(CALLS) == routes - {("GET", PATH)}


def test_its_schemas_are_schemas():
    from carousel_server.http.openapi import document

    made = document("1")
    assert made["openapi"] == "3.1.0"
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
async def test_answers_are_as_it_says(door, document, call):
    (verb, path), given = call, CALLS[call]
    generates = path.endswith("generate") or path.startswith("/v1")
    model = "echo-tokens" if generates else "echo"
    session = (await door.http.post(f"/api/models/{model}/sessions", json={})).json()["id"]
    operation = document["paths"][path][verb.lower()]
    if "json" in given:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        validate(document, body, given["json"])
    assert set(given.get("params", {})) <= {
        part["name"] for part in operation["parameters"] if part["in"] == "query"
    }
    reply = await door.http.request(verb, path.format(model=model, session=session), **given)
    good = operation["responses"][str(reply.status_code)]
    validate(document, good["content"]["application/json"]["schema"], reply.json())


@pytest.mark.parametrize("call", [c for c in CALLS if "{" in c[1]], ids=" ".join)
async def test_refusals_are_as_it_says(door, document, call):
    (verb, path), given = call, CALLS[call]
    reply = await door.http.request(verb, path.format(model="none", session="none"), **given)
    assert reply.status_code == 404
    operation = document["paths"][path][verb.lower()]
    kind = reply.headers["content-type"]
    validate(document, operation["responses"]["default"]["content"][kind]["schema"], reply.json())


async def test_what_it_forbids_is_refused(door, document):
    """A field that the document does not know, and one of another type, for each body."""
    for (verb, path), given in CALLS.items():
        if "json" not in given or path.startswith("/v1"):
            continue
        model = "echo-tokens" if path.endswith("generate") else "echo"
        opened = await door.http.post(f"/api/models/{model}/sessions", json={})
        where = path.format(model=model, session=opened.json()["id"])
        schema = document["paths"][path][verb.lower()]["requestBody"]["content"]["application/json"]
        name = schema["schema"]["$ref"].rpartition("/")[2]
        fields = document["components"]["schemas"][name]["properties"]
        for bad in (
            {**given["json"], "unknown": 1},
            {**given["json"], next(iter(fields)): {"a": 1}},
        ):
            with pytest.raises(jsonschema.ValidationError):
                validate(document, schema["schema"], bad)
            reply = await door.http.request(verb, where, json=bad)
            assert (reply.status_code, reply.json()["reason"]) == (400, "FIELD_INVALID"), bad
