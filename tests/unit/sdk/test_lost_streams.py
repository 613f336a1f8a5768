"""What gRPC says of a stream whose connection broke is one error, whoever noticed it first."""

from __future__ import annotations

import grpc
import pytest

import carousel
from carousel._core.retry import RetrySchedule
from carousel._rpc_errors import LOST, error_of_call


class Failed:
    """A call that gRPC itself has ended."""

    def __init__(self, code: grpc.StatusCode, text: str = "Internal error from Core") -> None:
        self._code = code
        self._text = text

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize("code", sorted(LOST, key=lambda code: code.name))
def test_a_broken_connection_is_a_lost_one(code: grpc.StatusCode) -> None:
    assert isinstance(error_of_call(Failed(code), on_stream=True), carousel.ConnectionLostError)
    never = error_of_call(Failed(code), on_stream=False)
    assert isinstance(never, carousel.ServerUnreachableError)
    assert never.retryable
    assert not isinstance(error_of_call(Failed(code)), carousel.ConnectionLostError)


@pytest.mark.parametrize("on_stream", [None, False, True])
@pytest.mark.parametrize(
    "text", ["Concurrent RPC limit exceeded!", "Too many pending requests", ""]
)
def test_a_refusal_by_grpc_itself_is_tried_again(text: str, on_stream: bool | None) -> None:
    failed = Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    error = error_of_call(failed, on_stream=on_stream)
    assert isinstance(error, carousel.RefusedError)
    assert error.reason == "RESOURCE_EXHAUSTED"
    assert RetrySchedule(carousel.RetryPolicy(), 60.0).delay_s(error, 0.0) is not None


def test_a_message_that_is_too_large_is_not() -> None:
    text = "SERVER: Received message larger than max (6000000 vs. 5242880)"
    error = error_of_call(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    assert not error.retryable
