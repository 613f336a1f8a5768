"""The address that a server announces to clients and other replicas."""

from __future__ import annotations

import socket

import pytest
from pydantic import ValidationError

from carousel_server.process.advertise import advertised
from carousel_server.process.config import Settings


@pytest.mark.parametrize(
    "address", ["", "a:1", "replica-1.internal:50051", "10.0.0.1:65535", "[fd00::1]:50051", "a_b:1"]
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert Settings(advertise=address).advertise == address


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("host", "write host:port"),
        ("host:", "write host:port"),
        (":50051", "write host:port"),
        ("host:0", "write host:port"),
        ("host:65536", "write host:port"),
        ("fd00::1:50051", "write host:port"),
        ("dns:///host:1", "write host:port"),
        ("a host:1", "write host:port"),
        ("host:1\n", "write host:port"),
        ("0.0.0.0:50051", "every address"),
        ("[::]:50051", "every address"),
    ],
)
def test_what_nobody_could_call_is_refused(address: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings(advertise=address)


@pytest.mark.parametrize(
    ("setting", "host", "expected"),
    [
        ("a.internal:7", "0.0.0.0", "a.internal:7"),
        ("", "127.0.0.1", "127.0.0.1:50051"),
        ("", "replica-1", "replica-1:50051"),
        ("", "fd00::1", "[fd00::1]:50051"),
        ("", "[fd00::1]", "[fd00::1]:50051"),
        ("", "0.0.0.0", f"{socket.gethostname()}:50051"),
        ("", "::", f"{socket.gethostname()}:50051"),
        ("", "[::]", f"{socket.gethostname()}:50051"),
        ("", "", f"{socket.gethostname()}:50051"),
    ],
)
def test_the_default_is_where_grpc_listens(setting: str, host: str, expected: str) -> None:
    assert advertised(setting, host, 50051) == expected
