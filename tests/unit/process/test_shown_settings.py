"""Settings that people may see have no secret in them."""

from __future__ import annotations

import json

import pytest

from carousel_server.process.config import Settings
from carousel_server.process.config_sources import shown, without_password


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("", ""),
        ("memory", "memory"),
        ("sqlite:/var/lib/a@b.db", "sqlite:/var/lib/a@b.db"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:hunter2@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://user:hunter2@host/1?ssl_cert_reqs=none", "rediss://***@host/1?ssl_cert_reqs=none"),
        ("redis://user:hun/ter2@x@host/0", "redis://***@host/0"),
        ("unix://user:hunter2@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        ("redis://host/0?password=hunter2&db=3", "redis://host/0?password=***&db=3"),
        ("redis://[host/0?password=hunter2", "redis://***"),
    ],
)  # fmt: skip
def test_a_stores_password_is_hidden(url: str, safe: str) -> None:
    assert without_password(url) == safe


def test_nothing_secret_is_shown_and_all_else_is() -> None:
    settings = Settings(store="redis://u:hunter2@h/0", tokens={"alice": "ab" * 32})
    values = shown(settings)
    assert set(values) == set(Settings.model_fields)
    assert values["tokens"] == {"alice": "***"}
    text = json.dumps(values)
    assert "hunter2" not in text
    assert "abab" not in text
    assert values["port"] == settings.port
