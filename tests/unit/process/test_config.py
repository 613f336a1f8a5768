"""Settings: who wins, who is refused, and what the message says."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from carousel_server.core.limits import EngineLimits
from carousel_server.core.quotas import TenantLimits
from carousel_server.process.config import ConfigError, Settings
from carousel_server.process.config_sources import _LISTS, _TABLES, Source, load_settings


def load(cli=None, file=None, env=None):
    return load_settings(cli or {}, file, env or {})


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "carousel.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_are_safe():
    settings, provenance = load()
    assert settings.host == settings.metrics_host == "127.0.0.1"
    assert (settings.port, settings.metrics_port) == (50051, 9464)
    assert settings.device == "auto"
    assert not settings.insecure
    assert settings.models.is_dir()
    assert set(provenance) == set(Settings.model_fields)
    assert set(provenance.values()) == {Source.DEFAULT}


def test_every_limit_of_the_engine_is_a_setting_with_the_same_default():
    settings, _ = load()
    assert settings.limits() == EngineLimits()
    for field in dataclasses.fields(EngineLimits):
        assert Settings.model_fields[field.name].default == field.default


def test_every_list_and_table_can_be_given_as_text():
    """By an environment variable or a flag. A scalar is a text anyway."""
    listed = [
        n
        for n, f in Settings.model_fields.items()
        if isinstance(f.get_default(call_default_factory=True), (tuple, list, dict))
    ]
    assert {*_LISTS, *_TABLES} == set(listed)


def test_limits_follow_the_settings():
    settings, _ = load({"slots": 8, "idle_ttl_s": 2.5})
    assert settings.limits() == EngineLimits(slots=8, idle_ttl_s=2.5)


def test_every_setting_is_described():
    for name, info in Settings.model_fields.items():
        assert info.description, name
        assert info.description.endswith("."), name


def test_command_line_beats_environment_beats_file_beats_default(toml):
    path = toml("slots = 1\nmax_batch = 1\nchunk_steps = 1\n")
    env = {"CAROUSEL_SLOTS": "2", "CAROUSEL_MAX_BATCH": "2"}
    settings, provenance = load({"slots": 3}, path, env)
    assert (settings.slots, settings.max_batch, settings.chunk_steps) == (3, 2, 1)
    assert provenance["slots"] is Source.COMMAND_LINE
    assert provenance["max_batch"] is Source.ENVIRONMENT
    assert provenance["chunk_steps"] is Source.FILE
    assert provenance["window_steps"] is Source.DEFAULT


def test_the_environment_can_name_the_file(toml):
    env = {"CAROUSEL_CONFIG": str(toml("slots = 5\n"))}
    settings, provenance = load(env=env)
    assert settings.slots == 5
    assert provenance["slots"] is Source.FILE


def test_the_process_environment_is_read_by_default(monkeypatch):
    monkeypatch.setenv("CAROUSEL_SLOTS", "7")
    assert load_settings()[0].slots == 7


def test_the_environment_does_not_leak_into_explicit_settings(monkeypatch):
    monkeypatch.setenv("CAROUSEL_SLOTS", "7")
    assert Settings().slots == EngineLimits().slots


@pytest.mark.parametrize(
    ("cli", "text", "env", "where"),
    [
        ({"slot": 1}, "", {}, "unknown setting slot (command line)"),
        ({}, "slot = 1", {}, "unknown setting slot (file)"),
        ({}, "", {"CAROUSEL_SLOT": "1"}, "unknown setting CAROUSEL_SLOT (environment)"),
    ],
)
def test_unknown_keys_are_errors_with_a_suggestion(toml, cli, text, env, where):
    with pytest.raises(ConfigError) as caught:
        load(cli, toml(text), env)
    cause, fix = str(caught.value).splitlines()
    assert cause == where
    assert fix == "did you mean slots?"


def test_the_clients_own_variables_are_no_settings():
    load(env={"CAROUSEL_SERVER": "somewhere:1", "CAROUSEL_TOKEN": "secret", "HOME": "/"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("slots", 0),
        ("slots", "many"),
        ("port", 65_536),
        ("idle_ttl_s", float("nan")),
        ("retry_after_s", 0),
        ("device", "tpu"),
        ("max_message_bytes", 1),
        ("log_format", "xml"),
        ("tokens", {"a": "not hex"}),
    ],
)
def test_values_out_of_range_name_their_key_and_source(key, value):
    with pytest.raises(ConfigError, match=rf"setting {key} \(command line\)") as caught:
        load({key: value})
    assert str(caught.value).splitlines()[1].startswith("set another value. It means: ")


@pytest.mark.parametrize(("value", "said"), [("two", "a valid integer"), (0, "greater than")])
def test_a_setting_of_two_kinds_says_both(value, said):
    with pytest.raises(ConfigError, match=rf"{said}.*, or input should be 'auto'"):
        load({"replicas": value})


def test_a_message_of_our_own_is_not_called_a_value_error():
    with pytest.raises(ConfigError, match=r"\(command line\): 'foo' is no address") as caught:
        load({"advertise": "foo"})
    assert "alue error" not in str(caught.value)


def test_secrets_are_not_repeated_in_messages():
    with pytest.raises(ConfigError) as caught:
        load({"tokens": {"a": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def test_files_that_cannot_be_read(toml, tmp_path):
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(file=toml("slots = ["))
    with pytest.raises(ConfigError, match="cannot read"):
        load(file=tmp_path / "missing.toml")


def test_settings_are_frozen():
    settings, _ = load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.slots = 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "server.example"])
def test_a_reachable_address_needs_tls_or_a_word(host):
    with pytest.raises(ConfigError, match="without TLS") as caught:
        load({"host": host})
    assert "insecure=true" in str(caught.value)
    assert load({"host": host, "insecure": True})[0].host == host
    load({"host": host, "tls_cert": "cert.pem", "tls_key": "key.pem"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_nothing(host):
    assert load({"host": host})[0].host == host


@pytest.mark.parametrize(
    ("given", "cause", "fix"),
    [
        ({"tls_cert": "c.pem"}, "tls_cert and tls_key belong together", "set both"),
        ({"tls_key": "k.pem"}, "tls_cert and tls_key belong together", "set both"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca needs tls_cert and tls_key", "set them"),
        (
            {"idle_ttl_s": 10.0, "max_idle_ttl_s": 5.0},
            "idle_ttl_s is above max_idle_ttl_s",
            "raise",
        ),
        ({"port": 5, "metrics_port": 5}, "port and metrics_port are the same", "change one"),
        (
            {"tokens": dict.fromkeys("ab", "0" * 64)},
            "two tenants have the same token in tokens",
            "change one",
        ),
        (
            {"tokens": {"a": "0" * 64}, "tokens_file": "t.toml"},
            "tokens and tokens_file are both set",
            "set one",
        ),
        ({"certificates": {"a.example": "a"}}, "certificates needs tls_client_ca", "set it"),
        (
            {"host": "::"},
            "other machines can reach host '::' without TLS",
            "set tls_cert and tls_key",
        ),
    ],
)
def test_settings_that_do_not_go_together(given, cause, fix):
    """The message's first line is the cause, and its second line tells the operator what to do."""
    with pytest.raises(ConfigError) as caught:
        load(given)
    lines = str(caught.value).split("\n")
    assert lines[0] == cause
    assert len(lines) == 2
    assert lines[1].startswith(fix)


PEM = {"tls_cert": "cert.pem", "tls_key": "key.pem"}


def test_tables_and_lists_from_text():
    digest = hashlib.sha256(b"secret").hexdigest()
    env = {"CAROUSEL_TOKENS": f'{{"a": "{digest}"}}', "CAROUSEL_ALLOW_CUSTOM": "m:A, n:B"}
    settings, _ = load(env=env)
    assert settings.tokens == {"a": digest}
    assert settings.allow_custom == ("m:A", "n:B")
    assert load({"allow_custom": '["m:A"]'})[0].allow_custom == ("m:A",)
    with pytest.raises(ConfigError, match="not a JSON"):
        load({"tokens": "a=b"})
    with pytest.raises(ConfigError, match=r"certificates=.*name in a certificate"):
        load({"certificates": "a=b"})
    certified = load({"certificates": '{"a.example": "a"}', "tls_client_ca": "c", **PEM})[0]
    assert certified.certificates == {"a.example": "a"}


def test_the_schema_names_every_setting():
    schema = Settings.model_json_schema()
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": 5000, "metrics_port": 5000}, "port and metrics_port are the same"),
        ({"tokens": {"a": "0" * 64, "b": "0" * 64}}, "two tenants have the same token"),
        ({"tokens": {"a": "ab" * 32, "b": "AB" * 32}}, "two tenants have the same token"),
        ({"tokens": {"a": "0" * 64}, "tokens_file": "t.toml"}, "set one of them"),
        ({"certificates": {"a.example": "a"}}, "certificates needs tls_client_ca"),
        ({"certificates": {"": "a"}}, "setting certificates"),
        ({"tokens": {"": "0" * 64}}, "setting tokens"),
        ({"tokens": {"a b\n": "0" * 64}}, "setting tokens"),
        ({"unhealthy_grace_s": "nan"}, "setting unhealthy_grace_s"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        load(given)


def test_free_ports_are_never_the_same():
    settings, _ = load({"port": 0, "metrics_port": 0})
    assert settings.port == settings.metrics_port == 0


CERTIFICATES = {"tls_cert": "c.pem", "tls_key": "k.pem", "tls_client_ca": "ca.pem"}


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({}, 0.0),
        ({"tokens": {"a": "0" * 64}}, 0.0),
        ({"tokens": {"a": "0" * 64, "b": "1" * 64}}, 0.75),
        ({"tokens_file": "tokens.toml"}, 0.75),
        ({"certificates": {"one.test": "a", "two.test": "b"}, **CERTIFICATES}, 0.75),
        ({"certificates": {"one.test": "a", "two.test": "a"}, **CERTIFICATES}, 0.0),
    ],
)
def test_tenants_share_where_there_may_be_several(given, share):
    settings, _ = load(given)
    assert settings.tenant_limits().tenant_share == share
    assert bool(settings.tenant_limits().tenant_infer_steps) == (share > 0)


def test_a_lone_tenant_has_the_limits_that_are_set():
    settings, _ = load({"tenant_streams": 3})
    assert settings.tenant_limits() == TenantLimits(tenant_streams=3)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_a_device_has_a_name(device: str) -> None:
    assert Settings(device=device).device == device


@pytest.mark.parametrize("device", ["cuda:", "cuda:a", "cuda:-1", "cuda:1,2", "gpu", "", "cuda:1 "])
def test_what_is_no_device_is_refused_with_its_meaning(device: str) -> None:
    with pytest.raises(ConfigError, match=r"setting device .*\n.*cuda:N for GPU N"):
        load_settings({"device": device}, environment={})
