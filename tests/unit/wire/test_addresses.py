"""Addresses that can and cannot be listened on."""

from __future__ import annotations

import socket

import pytest

from carousel_server.wire import ListenError, check_address
from carousel_server.wire.addresses import shown


@pytest.fixture
def taken():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0"])
def test_free_addresses_pass(host):
    check_address(host, 0)


def test_a_taken_port_is_said_with_its_fix(taken):
    with pytest.raises(ListenError) as caught:
        check_address("127.0.0.1", taken)
    cause, fix = str(caught.value).splitlines()
    assert cause == f"cannot listen on 127.0.0.1:{taken}: address already in use"
    assert "choose another --port" in fix


def test_a_name_is_taken_if_one_of_its_addresses_is(taken):
    with pytest.raises(ListenError, match="already in use"):
        check_address("localhost", taken)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", "address of this machine"),  # TEST-NET-1: nobody's
        ("unix:/tmp/x.sock", "no such name"),
        ("no.such.name.invalid", "no such name"),
        ("x" * 300, "no such name"),
    ],
)
def test_an_address_that_is_not_ours_is_said(host, said):
    with pytest.raises(ListenError, match=said):
        check_address(host, 50051)


def test_a_port_of_a_server_that_has_just_ended_is_free():
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        served, _ = listener.accept()
        served.close()  # first, so that the connection lingers on the server's side
    client.close()
    check_address("127.0.0.1", port)


def test_addresses_are_shown_so_that_they_can_be_dialled():
    assert shown("::1", 5) == shown("[::1]", 5) == "[::1]:5"
    assert shown("localhost", 5) == "localhost:5"
