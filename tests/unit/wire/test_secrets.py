"""Files of tokens and certificates: what they may hold, and how they are read again."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
from support.certificates import make_certificates, needs_openssl
from support.fake_engine import CountingMetrics

from carousel_server.core.errors import CarouselError
from carousel_server.wire.auth import Authenticator
from carousel_server.wire.options import TlsPaths, WireOptions
from carousel_server.wire.reloading import Secrets
from carousel_server.wire.secrets import SecretError, read_tls, read_tokens, stamp

A, B = (hashlib.sha256(token).hexdigest() for token in (b"a", b"b"))

BROKEN = {
    "empty": ("", "would let everybody in"),
    "no TOML": ("alice: x", "is not TOML"),
    "no hash": ('alice = "secret"', "no SHA-256"),
    "a number": ("alice = 7", "no SHA-256"),
    "an empty list": ("alice = []", "no SHA-256"),
    "a table": (f'[alice]\ntoken = "{A}"', "no SHA-256"),
    "twice": (f'alice = "{A}"\nbob = "{A.upper()}"', "twice"),
    "no tenant": (f'"a b" = "{A}"', "no name of a tenant"),
}


def test_tokens_one_or_several_for_a_tenant(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'alice = "{A}"\n"bob:x" = ["{B.upper()}"]\n')
    assert read_tokens(path) == {bytes.fromhex(A): "alice", bytes.fromhex(B): "bob:x"}
    path.write_text(f'alice = ["{A}", "{B}"]\n')
    assert set(read_tokens(path).values()) == {"alice"}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tokens_are_said(tmp_path: Path, name: str) -> None:
    text, said = BROKEN[name]
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(SecretError, match=said) as caught:
        read_tokens(path)
    assert "secret" not in str(caught.value)  # never a token
    with pytest.raises(SecretError, match="cannot read"):
        read_tokens(tmp_path / "none.toml")


def test_a_file_that_is_replaced_or_gone_has_another_stamp(tmp_path: Path) -> None:
    path, other = tmp_path / "one", tmp_path / "two"
    path.write_text("x")
    before = stamp(path, None)
    assert stamp(path) == before
    other.write_text("x")
    other.replace(path)
    assert stamp(path) != before
    path.unlink()
    assert stamp(path) == {path: ()}


@pytest.fixture
def rig(tmp_path: Path) -> tuple[Path, Authenticator, CountingMetrics, Secrets]:
    path = tmp_path / "tokens.toml"
    path.write_text(f'alice = "{A}"')
    authenticator, metrics = Authenticator(read_tokens(path)), CountingMetrics()
    options = WireOptions(tokens=read_tokens(path), tokens_file=path)
    return path, authenticator, metrics, Secrets(options, authenticator, metrics)


async def test_a_changed_file_counts_and_a_broken_one_does_not(
    rig: tuple[Path, Authenticator, CountingMetrics, Secrets], caplog: pytest.LogCaptureFixture
) -> None:
    path, authenticator, metrics, secrets = rig
    caplog.set_level(logging.INFO)
    await secrets.refresh()
    assert metrics.reloads == []

    path.write_text(f'alice = ["{A}", "{B}"]')
    await secrets.refresh()
    assert authenticator.tenant("s", "Bearer b") == "alice"

    path.write_text("nonsense")
    await secrets.refresh()
    await secrets.refresh()  # said once
    assert authenticator.tenant("s", "Bearer b") == "alice"

    path.unlink()
    await secrets.refresh()
    assert authenticator.tenant("s", "Bearer b") == "alice"

    path.write_text(f'bob = "{B}"')
    await secrets.refresh()
    assert authenticator.tenant("s", "Bearer b") == "bob"
    with pytest.raises(CarouselError):
        authenticator.tenant("s", "Bearer a")
    assert [ok for _, ok in metrics.reloads] == [True, False, False, True]
    lines = [(r.levelname, r.getMessage().partition(":")[0]) for r in caplog.records]
    assert lines == [
        ("INFO", "tokens were read again"),
        ("ERROR", "tokens were not read again, the old ones count"),
        ("ERROR", "tokens were not read again, the old ones count"),
        ("INFO", "tokens were read again"),
    ]


@needs_openssl
async def test_certificates_are_told_to_grpc_once_and_only_if_they_fit(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        make_certificates(tmp_path / name)
    paths = TlsPaths(tmp_path / "old/server.pem", tmp_path / "old/server.key")
    metrics = CountingMetrics()
    options = WireOptions(tls=read_tls(paths))
    secrets = Secrets(options, Authenticator({}), metrics)
    assert secrets._fetch() is None

    (tmp_path / "new/server.pem").replace(paths.cert)  # its key is still the old one
    await secrets.refresh()
    assert secrets._fetch() is None
    (tmp_path / "new/server.key").replace(paths.key)
    await secrets.refresh()
    assert secrets._fetch() is not None
    assert secrets._fetch() is None
    assert metrics.reloads == [("tls", False), ("tls", True)]
    with pytest.raises(SecretError, match="cannot read"):
        read_tls(TlsPaths(paths.cert, tmp_path / "none.key"))
