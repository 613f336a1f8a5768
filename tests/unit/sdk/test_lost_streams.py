"""What gRPC says of a stream whose connection broke is one error, whoever noticed it first."""

from __future__ import annotations

import grpc
import pytest

import carousel
from carousel._rpc_errors import LOST, error_of_call


class Failed:
    """A call that gRPC itself has ended."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "Internal error from Core"

    def trailing_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize("code", sorted(LOST, key=lambda code: code.name))
def test_a_broken_connection_is_a_lost_one(code: grpc.StatusCode) -> None:
    assert isinstance(error_of_call(Failed(code), on_stream=True), carousel.ConnectionLostError)
    never = error_of_call(Failed(code), on_stream=False)
    assert isinstance(never, carousel.ServerUnreachableError)
    assert never.retryable
    assert not isinstance(error_of_call(Failed(code)), carousel.ConnectionLostError)
