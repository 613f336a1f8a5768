"""The command's TLS: options, variables, and the settings of a server in the same environment."""

from __future__ import annotations

import pytest

from carousel.cli.exits import CliError, ExitCode
from carousel.cli.main import run
from carousel.cli.options import Options, from_environment, merged, resolved
from carousel.cli.tls import TlsOptions, own_address, own_tls

DEFAULT = "localhost:50051"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER", "TOKEN", "TLS", "CA", "CERT", "KEY", "SERVER_NAME", "HOST", "PORT"):
        monkeypatch.delenv(f"CAROUSEL_{name}", raising=False)


def test_variables_and_options_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAROUSEL_CA", "ca.pem")
    monkeypatch.setenv("CAROUSEL_SERVER_NAME", "a")
    base = from_environment()
    assert base.tls == TlsOptions(None, "ca.pem", None, None, "a")
    options = merged(base, None, None, None, False, True, None, "c.pem", "c.key", "b")
    assert options.tls == TlsOptions(True, "ca.pem", "c.pem", "c.key", "b")
    tls = options.tls.for_sdk()
    assert tls is not None
    assert (tls.ca, tls.certificate, tls.key, tls.server_name) == ("ca.pem", "c.pem", "c.key", "b")
    assert TlsOptions().for_sdk() is None


@pytest.mark.parametrize(
    ("said", "wanted"), [("true", True), ("1", True), ("off", False), ("", False)]
)
def test_the_variable_that_switches_it_on(said: str, wanted: bool) -> None:
    assert TlsOptions.from_environment({"CAROUSEL_TLS": said}).wanted is wanted


def test_a_variable_that_is_neither_is_refused() -> None:
    with pytest.raises(CliError, match="CAROUSEL_TLS is 'perhaps'") as caught:
        TlsOptions.from_environment({"CAROUSEL_TLS": "Perhaps"})
    assert caught.value.code is ExitCode.USAGE


def test_the_server_passes_over_the_variables_of_the_command() -> None:
    from carousel_server.process.config_sources import load_settings

    names = ("TLS", "CA", "CERT", "KEY", "SERVER_NAME", "SERVER", "TOKEN")
    settings, _ = load_settings(environment={f"CAROUSEL_{name}": "x" for name in names})
    assert settings.tls_cert is None


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, DEFAULT),
        ({"CAROUSEL_PORT": "6000"}, "localhost:6000"),
        ({"CAROUSEL_HOST": "0.0.0.0", "CAROUSEL_PORT": "6000"}, "localhost:6000"),
        ({"CAROUSEL_HOST": "::"}, DEFAULT),
        ({"CAROUSEL_HOST": "10.0.0.1"}, "10.0.0.1:50051"),
        ({"CAROUSEL_HOST": "2001:db8::1"}, "[2001:db8::1]:50051"),
        ({"CAROUSEL_PORT": "tcp://10.0.0.1:50051"}, DEFAULT),
    ],
)
def test_the_server_of_this_environment(variables: dict[str, str], address: str) -> None:
    assert own_address(variables, DEFAULT) == address


def test_a_server_that_is_named_is_not_that_of_this_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAROUSEL_PORT", "6000")
    monkeypatch.setenv("CAROUSEL_TLS_CERT", "server.pem")
    assert resolved(Options()).server == "localhost:6000"
    assert resolved(Options()).tls.ca == "server.pem"
    assert resolved(Options(tls=TlsOptions(ca="mine.pem"))).tls == TlsOptions(ca="mine.pem")
    named = Options(server="a:1", server_given=True)
    assert resolved(named) == named


def test_a_certificate_that_nobody_shows_names_nobody() -> None:
    variables = {"CAROUSEL_TLS_CERT": "/absent/server.pem", "CAROUSEL_TLS_CLIENT_CA": "ca.pem"}
    variables["CAROUSEL_TLS_KEY"] = "server.key"
    told = own_tls(variables, "localhost:1")
    assert told == TlsOptions(True, "/absent/server.pem", "/absent/server.pem", "server.key", None)
    assert own_tls({}, "localhost:1") == TlsOptions()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["health", "--ca", "/absent/ca.pem"], "/absent/ca.pem: No such file"),
        (["health", "--key", __file__], "certificate is None"),
        (["health", "--ca", __file__], "holds no PEM certificate"),
        (["health", "--token", "a\tb"], "printable ASCII"),
        (["serve", "--tls"], "--set tls-cert=FILE"),
    ],
)
def test_wrong_options_are_told_before_anything_is_sent(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--server", "localhost:1"]) == ExitCode.USAGE
    assert told in capsys.readouterr().err
