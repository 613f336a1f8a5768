"""Every reason of the registry has a status code, and an answer that a program can read."""

from __future__ import annotations

import json

import pytest

from carousel_protos.errors import ERRORS, Actor, Code
from carousel_server.core.errors import CarouselError
from carousel_server.http.problems import STATUS, problem_response

SERVER_SIDE = {Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS, Code.UNIMPLEMENTED}


def test_the_table_covers_the_registry():
    assert set(STATUS) == set(ERRORS)


@pytest.mark.parametrize("reason", ERRORS)
def test_whose_fault_it_is(reason):
    spec, status = ERRORS[reason], STATUS[reason]
    at_server = spec.code in SERVER_SIDE or reason == "DEADLINE_EXCEEDED"
    assert (status >= 500) == at_server
    if spec.code is Code.NOT_FOUND:
        assert status == 404
    if spec.code is Code.RESOURCE_EXHAUSTED and spec.actor is Actor.RETRY:
        assert status == 429


@pytest.mark.parametrize("reason", ERRORS)
def test_the_answer(reason):
    error = CarouselError(
        reason, "what happened", metadata={"limit": 7}, retry_after_s=0.25, field="inputs", seq=3
    )
    response = problem_response(error, "id-1")
    problem = json.loads(response.body)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == problem["status"] == STATUS[reason]
    assert problem["type"] == f"urn:carousel:error:{reason}"
    assert (problem["title"], problem["fix"]) == (ERRORS[reason].meaning, ERRORS[reason].fix)
    assert (problem["reason"], problem["detail"]) == (reason, "what happened")
    assert (problem["metadata"], problem["field"], problem["seq"]) == ({"limit": "7"}, "inputs", 3)
    assert (problem["retry_after_s"], problem["request_id"]) == (0.25, "id-1")
    assert response.headers["retry-after"] == "1"
    assert ("www-authenticate" in response.headers) == (problem["status"] == 401)
