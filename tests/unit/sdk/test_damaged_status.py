"""A status whose details are damaged on the way is an error by name, and a live session is mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

import carousel
from carousel._core.faults import error_of
from carousel._rpc_errors import error_of_call
from carousel.testing import FakeServer
from carousel_protos.errors import DOMAIN

from .support import opened, sums

KEY = "grpc-status-details-bin"
TEXT = "a proxy was here"
OTHER_CODE = Status(code=3, message=TEXT).SerializeToString()
OTHER_TEXT = Status(code=14, message="another text").SerializeToString()
NO_CODE = Status(code=99, message=TEXT).SerializeToString()
NO_MESSAGE = b"\xff\xff\xff\xff"
DAMAGE_IDS = ["other code", "other text", "no code", "no message"]
DAMAGES = [OTHER_CODE, OTHER_TEXT, NO_CODE, NO_MESSAGE]
ROWS = np.arange(8, dtype=np.float32).reshape(4, 2)


class Failed:
    """A call that ended with these details in its trailer."""

    def __init__(self, code: grpc.StatusCode, details_bin: bytes) -> None:
        self._code = code
        self._details_bin = details_bin

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return TEXT

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return ((KEY, self._details_bin),)


@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_IDS)
def test_damaged_details_of_a_stream_are_a_lost_connection(damage: bytes) -> None:
    for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED):
        lost = error_of_call(Failed(code, damage), on_stream=True)
        assert isinstance(lost, carousel.ConnectionLostError)
        assert (lost.code, lost.message) == ("UNAVAILABLE", TEXT)
        never = error_of_call(Failed(code, damage), on_stream=False)
        assert isinstance(never, carousel.ServerUnreachableError)
        assert (never.code, never.message) == ("UNAVAILABLE", TEXT)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, carousel.ServerUnreachableError),
        (grpc.StatusCode.FAILED_PRECONDITION, carousel.ConflictError),
        (grpc.StatusCode.UNAUTHENTICATED, carousel.UnauthorizedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, carousel.RefusedError),
        (grpc.StatusCode.DATA_LOSS, carousel.ServerFaultError),
    ],
)
def test_damaged_details_of_another_call_leave_code_and_text(
    code: grpc.StatusCode, kind: type[carousel.CarouselError]
) -> None:
    error = error_of_call(Failed(code, OTHER_TEXT))
    assert isinstance(error, kind)
    assert (error.code, error.message) == (code.name, TEXT)


def packed(message: Any, value: bytes | None = None) -> Packed:
    detail = Packed()
    detail.Pack(message)
    if value is not None:
        detail.value = value
    return detail


def test_one_detail_that_cannot_be_parsed_leaves_the_others() -> None:
    status = Status(code=8, message=TEXT)
    status.details.append(packed(details.ErrorInfo(reason="QUEUE_FULL", domain=DOMAIN)))
    status.details.append(packed(details.RetryInfo(), NO_MESSAGE))
    error = error_of(status)
    assert isinstance(error, carousel.QueueFullError)
    assert error.retry_after_s is None
    status.details[0].value = NO_MESSAGE
    assert type(error_of(status)) is carousel.RefusedError


@pytest.mark.parametrize("seconds", [-5, 10**11])
def test_a_hint_that_nobody_can_wait_for_is_bounded(seconds: int) -> None:
    retry = details.RetryInfo()
    retry.retry_delay.seconds = seconds
    status = Status(code=14, message=TEXT, details=[packed(retry)])
    hint_s = error_of(status).retry_after_s
    assert hint_s is not None
    assert 0 <= hint_s <= 367 * 86_400


@pytest.fixture(params=DAMAGES, ids=DAMAGE_IDS)
def damaging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every status of the fake server is damaged on the way."""

    class Damaged(grpc.Status):
        code = grpc.StatusCode.UNAVAILABLE
        details = TEXT
        trailing_metadata = ((KEY, request.param),)

    monkeypatch.setattr(rpc_status, "to_status", lambda _status: Damaged())


def test_a_live_session_is_mended(
    fake: FakeServer, make_client: Callable[..., Any], damaging: None
) -> None:
    client = make_client(timeout_s=10.0, retries=carousel.RetryPolicy(first_delay_s=0.001))
    with client.session("sum") as session:
        session.steps(ROWS)
        fake.inject("Attach", "DRAINING", times=2)
        fake.break_streams()
        np.testing.assert_array_equal(session.steps(ROWS), sums(ROWS, ROWS.sum()))
        assert session.applied == session.info().applied == 2 * len(ROWS)
    assert client.statistics().reconnects == 3


def test_unary_calls_and_texts_are_refused_by_name(
    fake: FakeServer, make_client: Callable[..., Any], damaging: None
) -> None:
    client = make_client(timeout_s=10.0, retries=0)
    for call, request in (
        ("Infer", lambda: client.infer("sum", ROWS)),
        ("Generate", lambda: client.generate("letters", "a", max_tokens=2).text()),
        ("Attach", lambda: opened(client.session("sum"))),
    ):
        fake.inject(call, "DRAINING", times=2)  # a stream may be opened before it is needed
        with pytest.raises(carousel.ServerUnreachableError) as caught:
            request()
        # gRPC loses the text of a stream's refusal that crosses with what the client sends.
        assert call == "Attach" or caught.value.message == TEXT


class Cancelled(Failed):
    """A unary call that ended with CANCELLED and a text of gRPC."""

    def __init__(self, text: str) -> None:
        super().__init__(grpc.StatusCode.CANCELLED, b"")
        self._text = text

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return ()


@pytest.mark.parametrize("text", ["CANCELLED", "Received RST_STREAM with error code 8"])
def test_a_call_that_a_server_or_a_proxy_cuts_is_lost_with_the_server(text: str) -> None:
    """A server that stops, and HAProxy when a replica has died. The client was not closed."""
    error = error_of_call(Cancelled(text))
    assert type(error) is carousel.ServerUnreachableError
    assert text in str(error)


@pytest.mark.parametrize(
    "text", ["Channel closed!", "Channel closed due to fork", "Locally cancelled by application!"]
)
def test_a_call_that_is_cancelled_here_ends_with_its_client(text: str) -> None:
    assert type(error_of_call(Cancelled(text))) is carousel.ClientClosedError
