"""TLS of the client, as far as it shows without a server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certificates import make_certificates, needs_openssl, openssl

import carousel
from carousel._options import Options, options_of
from carousel._tls import disagreement

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def options(tls: carousel.TLS | None = None, token: str | None = None) -> Options:
    return options_of("localhost:1", token, tls, 5.0, 1)


def test_paths_and_bytes_are_the_same(folder: Path) -> None:
    names = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
    whole = {part: (folder / name).read_bytes() for part, name in names.items()}
    for kind in (str, Path):
        paths: dict[str, Any] = {part: kind(folder / name) for part, name in names.items()}
        assert options(carousel.TLS(**paths)).tls == carousel.TLS(**whole)
    assert carousel.TLS(**whole).credentials() is not None


@pytest.mark.parametrize("part", ["certificate", "key"])
def test_half_of_a_pair_is_refused(folder: Path, part: str) -> None:
    """gRPC ends the process for it."""
    tls = carousel.TLS(**{part: folder / f"client.{'key' if part == 'key' else 'pem'}"})
    for call in (tls.read, tls.credentials, lambda: carousel.Client("localhost:1", tls=tls)):
        with pytest.raises(carousel.FieldInvalidError, match="belong together"):
            call()


def broken(folder: Path) -> list[dict[str, Any]]:
    pair: dict[str, Any] = {"certificate": folder / "client.pem", "key": folder / "client.key"}
    openssl(
        folder, "ec", "-in", "client.key", "-aes256", "-passout", "pass:x", "-out", "locked.key"
    )  # fmt: skip
    certificate = (folder / "ca.pem").read_bytes()
    return [
        {"ca": b""},
        {"ca": b"ca.pem"},
        {"ca": folder / "ca.key"},
        {"ca": certificate[:200]},
        {"ca": b"\xff" + certificate},
        {**pair, "certificate": b"x"},
        {**pair, "key": b"x"},
        {**pair, "key": folder / "client.pem"},
        {**pair, "key": folder / "server.key"},
        {**pair, "key": folder / "locked.key"},
    ]


@pytest.mark.parametrize("make", [carousel.Client, carousel.AsyncClient])
def test_what_is_no_pem_is_refused_by_name(folder: Path, make: Callable[..., Any]) -> None:
    for parts in broken(folder):
        with pytest.raises(carousel.FieldInvalidError, match="TLS"):
            make("localhost:1", tls=carousel.TLS(**parts))
    with pytest.raises(FileNotFoundError, match=r"absent\.pem"):
        make("localhost:1", tls=carousel.TLS(ca=folder / "absent.pem"))


def test_without_memory_files_a_pair_is_checked_by_its_marks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    tls = carousel.TLS(certificate=folder / "client.pem", key=b"x")
    with pytest.raises(carousel.FieldInvalidError, match="private key"):
        tls.read()


def test_the_server_may_have_another_name(folder: Path) -> None:
    tls = carousel.TLS(ca=folder / "ca.pem", server_name="carousel.example")
    assert ("grpc.ssl_target_name_override", "carousel.example") in options(tls).channel_options(
        "host:1"
    )
    assert not [
        o for o in options().channel_options("host:1") if o[0] == "grpc.ssl_target_name_override"
    ]


def test_a_token_loses_the_end_of_its_line() -> None:
    for token in ("secret\n", " secret\r\n", "secret"):
        assert options(token=token).metadata == (("authorization", "Bearer secret"),)
    assert options(token="\n").metadata == ()
    for token in ("sec\nret", "s\u00e9cret", "sec\x00ret"):
        with pytest.raises(carousel.FieldInvalidError, match="printable ASCII") as caught:
            options(token=token)
        assert "ret" not in caught.value.message


def test_other_errors_have_nothing_to_do_with_tls() -> None:
    closed = "failed to connect: Socket closed"
    for error in (
        carousel.QueueFullError(closed),
        carousel.ConnectionLostError(closed),
        carousel.ServerUnreachableError("Connection refused"),
        carousel.ServerUnreachableError(closed),
    ):
        assert disagreement(error, "localhost:1", None) is None
    assert disagreement(carousel.ServerUnreachableError(closed), "unix:/x", None) is None
