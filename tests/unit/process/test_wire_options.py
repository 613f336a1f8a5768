"""Settings reach the wire under their own names, each of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from carousel_server.process.config import Settings
from carousel_server.process.server import wire_options
from carousel_server.wire import WireOptions

OTHER: dict[str, Any] = {
    "host": "127.0.0.2",
    "port": 1,
    "max_message_bytes": 1 << 20,
    "max_streams": 7,
    "max_handles": 8,
    "max_calls_per_connection": 9,
    "max_connections": 10,
    "message_timeout_s": 11.0,
    "abandoned_calls_per_s": 12.0,
    "max_idle_ttl_s": 7200.0,
    "max_generate_tokens": 13,
    "max_token_delay_s": 0.5,
    "retry_after_s": 0.75,
    "slots": 14,
    "http_cors_origins": ("https://a.test",),
    "console": False,
    "triton": False,
    "reflection": False,
    "certificates": {"client": "tenant"},
}
NOT_SETTINGS = {"shared_port", "refused_models", "server_version"}
"""Set for each front end, or known only after the models are loaded."""
DERIVED = {
    "max_calls", "default_idle_ttl_s", "tls", "tenants", "tokens", "tokens_file", "transport",
    "transport_hint", "http_port",
}  # fmt: skip
"""Made of settings; each has a test below, or those of secrets."""


def test_every_option_is_tested() -> None:
    assert {field.name for field in fields(WireOptions)} == set(OTHER) | NOT_SETTINGS | DERIVED


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_is_handed_on(name: str) -> None:
    before = wire_options(Settings())
    # A copy is not checked, so each setting can change alone.
    options = wire_options(Settings().model_copy(update={name: OTHER[name]}))
    assert getattr(options, name) == OTHER[name]
    assert getattr(options, name) != getattr(before, name)


def test_options_that_are_made_of_settings(tmp_path: Path) -> None:
    digest = "ab" * 32
    plain = wire_options(
        Settings(max_streams=3, inbox_commands=4, idle_ttl_s=5.0, tokens={"two": digest})
    )
    assert (plain.max_calls, plain.default_idle_ttl_s) == (7, 5.0)
    assert plain.tokens == {bytes.fromhex(digest): "two"}
    assert plain.tokens_file is None
    file = tmp_path / "tokens.toml"
    file.write_text(f'one = "{digest}"\n')
    read = wire_options(Settings(tokens_file=file))
    assert (read.tokens, read.tokens_file) == ({bytes.fromhex(digest): "one"}, file)
    limited = wire_options(Settings(tokens={"two": digest, "three": "cd" * 32}, tenant_sessions=6))
    assert limited.tenants.tenant_sessions == 6


@pytest.mark.parametrize(("setting", "port"), [("off", None), (0, 0), (8081, 8081)])
def test_the_http_door_is_off_or_has_a_port(setting: int | str, port: int | None) -> None:
    assert wire_options(Settings(http_port=setting)).http_port == port  # type: ignore[arg-type]
