"""The OpenAPI document of the door, made of the models of requests and answers."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from . import answers, openai, schemas
from .problems import MEDIA_TYPE
from .replies import EVENTS, json_response
from .requests import JSON, RAW

PATH = "/openapi.json"

_REF = "#/components/schemas/{model}"
_BYTES = {"schema": {"type": "string", "format": "binary"}}


class Operation(NamedTuple):
    """What a route takes and answers.

    Attributes:
        does: one line.
        answer: the object of a good answer.
        body: the object of the request, None if there is none.
        query: fields of the query. With `raw`, those that go with bytes.
        raw: rows may be bytes, both ways.
        events: the answer may be a stream of events.
        status: of a good answer.
    """

    does: str
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    raw: bool = False
    events: bool = False
    status: int = 200


_SESSION = "/api/sessions/{session}"
OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/api/models"): Operation("Lists the models.", answers.ModelList, query=schemas.Page),
    ("GET", "/api/models/{model}"): Operation("Describes a model.", answers.ModelShown),
    ("POST", "/api/models/{model}/sessions"): Operation(
        "Opens a session.", answers.SessionShown, schemas.OpenSession, status=201
    ),
    ("GET", "/api/sessions"): Operation(
        "Lists the caller's sessions.", answers.SessionList, query=schemas.SessionPage
    ),
    ("GET", _SESSION): Operation("Reads a session.", answers.SessionShown),
    ("DELETE", _SESSION): Operation("Closes a session.", answers.SessionShown),
    ("POST", f"{_SESSION}/fork"): Operation(
        "Opens a copy of a session.", answers.SessionShown, schemas.ForkSession, status=201
    ),
    ("GET", f"{_SESSION}/state"): Operation("Reads a session's state.", answers.StateShown),
    ("POST", f"{_SESSION}/steps"): Operation(
        "Runs steps, each exactly once.",
        answers.StepsRun,
        schemas.Steps,
        schemas.RawSteps,
        raw=True,
    ),
    ("POST", "/api/models/{model}/infer"): Operation(
        "Runs a whole sequence.",
        answers.SequenceRun,
        schemas.Sequence,
        schemas.RawSequence,
        raw=True,
    ),
    ("POST", "/api/models/{model}/generate"): Operation(
        "Generates in a session of its own.", answers.Generated, schemas.Generation, events=True
    ),
    ("POST", f"{_SESSION}/generate"): Operation(
        "Generates in a session.", answers.Generated, schemas.Generation, events=True
    ),
    ("POST", "/v1/completions"): Operation(
        "Completes a prompt, as OpenAI's API.", answers.Completed, openai.Completion, events=True
    ),
    ("GET", "/api/metrics"): Operation("Reads numbers of the server.", answers.MetricsShown),
    ("GET", "/v1/models"): Operation("Lists models that generate.", answers.OpenAIModels),
    ("GET", "/v1/models/{model}"): Operation("Names a model.", answers.OpenAIModel),
}
"""Every route but that of this document, those of WebSocket, which OpenAPI cannot describe, and those of
Triton's protocol, which describes itself."""


@cache
def document(version: str) -> dict[str, Any]:
    """The document of a server of this version."""
    known: dict[type[BaseModel], None] = {}
    for operation in OPERATIONS.values():
        used = (operation.answer, operation.body, operation.query)
        known |= dict.fromkeys(kind for kind in used if kind is not None)
    kinds: list[type[BaseModel]] = [*known, answers.Problem]
    _, made = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for (verb, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[verb.lower()] = _shown(path, operation, made["$defs"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Carousel", "version": version},
        "paths": paths,
        "components": {
            "schemas": made["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _shown(path: str, operation: Operation, defs: dict[str, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {JSON: _schema(operation.answer)}
    if operation.raw:
        good[RAW] = _BYTES
    if operation.events:
        good[EVENTS] = {"schema": {"type": "string"}}
    refusal = JSON if path.startswith("/v1/") else MEDIA_TYPE
    bad = {"schema": {}} if path.startswith("/v1/") else _schema(answers.Problem)
    shown: dict[str, Any] = {
        "summary": operation.does,
        "parameters": [*_parts_of(path), *_query_of(operation, defs)],
        "responses": {
            str(operation.status): {"description": "Done.", "content": good},
            "default": {"description": "Refused.", "content": {refusal: bad}},
        },
    }
    if operation.body is not None:
        content: dict[str, Any] = {JSON: _schema(operation.body)}
        if operation.raw:
            content[RAW] = _BYTES
        shown["requestBody"] = {"required": True, "content": content}
    return shown


def _schema(kind: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": _REF.format(model=kind.__name__)}}


def _parts_of(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_of(operation: Operation, defs: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters of the query. Those of raw rows are required with bytes only, so none is here."""
    if operation.query is None:
        return []
    fields = defs[operation.query.__name__]["properties"]
    return [{"name": name, "in": "query", "schema": field} for name, field in fields.items()]


def routes(version: str) -> list[BaseRoute]:
    """The route of the document. It needs no token, since it says nothing of this server's sessions."""

    async def shown(_request: Request) -> Response:
        return json_response(document(version))

    return [Route(PATH, shown, methods=["GET"])]
