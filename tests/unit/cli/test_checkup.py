"""The checks of `carousel doctor` that need no server's packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from io import StringIO

import pytest
from rich.console import Console

from carousel._version import __version__
from carousel.cli.checkup import packages as checked
from carousel.cli.checkup.findings import Finding, Level, as_table
from carousel.cli.checkup.running import clock, version_of


def test_the_packages_of_this_environment() -> None:
    assert checked.python().level is Level.OK
    (found,) = checked.packages()
    assert (found.check, found.level) == ("packages", Level.OK)
    assert "grpcio " in found.found


def test_a_free_threaded_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked.sys, "_is_gil_enabled", lambda: False, raising=False)
    assert checked.python().level is Level.WARNING


def test_old_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"grpcio": "1.62.2", "numpy": "2.0.0rc1", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(checked, "installed", there.get)
    needed = [
        "grpcio>=1.62.3", "numpy>=2", "rich>=13", "torch>=2.10; extra == 'server'",
        "pydantic>=2; extra == 'server'", "h5py>=3; extra == 'import'", "uvloop>=0.2; sys_platform != 'x'",
    ]  # fmt: skip
    *faults, well = checked.packages(needed)
    assert [one.found for one in faults] == [
        "grpcio 1.62.2 is too old",
        "rich is not installed",
        "pydantic is not installed",
    ]
    assert all(one.level is Level.PROBLEM for one in faults)
    assert "'carousel-serving[server]'" in faults[2].fix
    assert well.found == "numpy 2.0.0rc1, torch 2.13.0+cpu"


def test_companions_of_another_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"grpcio": "1.80.1", "grpcio-status": "1.81.0", "grpcio-reflection": "1.80.9"}
    monkeypatch.setattr(checked, "installed", there.get)
    fault, well = list(checked.packages([f"{name}>=1.62" for name in there]))[:2]
    assert fault.found.startswith("grpcio-status 1.81.0 is newer than grpcio 1.80.1")
    assert (fault.level, fault.fix) == (Level.PROBLEM, "pip install --upgrade 'grpcio>=1.81.0'")
    assert well.level is Level.OK


def test_protobuf_without_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(checked.slow_protobuf()) == []
    monkeypatch.setattr("google.protobuf.internal.api_implementation.Type", lambda: "python")
    (found,) = checked.slow_protobuf()
    assert found.level is Level.WARNING
    assert "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" in found.fix


def test_a_client_without_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "installed", {"grpcio": "1.70"}.get)
    well, server = checked.packages(["grpcio>=1.62", "torch>=2.10; extra == 'server'"])
    assert well.level is Level.OK
    assert (server.level, "[server]" in server.fix) == (Level.SKIPPED, True)


def test_a_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checked, "requires", missing)
    (found,) = checked.packages()
    assert found.level is Level.WARNING


@pytest.mark.parametrize(
    ("found", "least", "older"),
    [
        ("1.62.2", "1.62.3", True),
        ("1.100", "1.62.3", False),
        ("2", "2.0.0", False),
        ("2.13.0+cpu", "2.10", False),
        ("", "1", True),
    ],
)
def test_versions(found: str, least: str, older: bool) -> None:
    assert checked.is_older(found, least) is older


def test_versions_and_clocks_of_a_server() -> None:
    assert version_of(__version__).level is Level.OK
    assert version_of("99.0").fix == "update the older one"
    assert "no server of Carousel" in version_of("").found
    assert clock(0.9).level is Level.OK
    assert clock(-75.2).found == "-75 s against this machine's"


def test_a_fix_stands_below_its_finding_at_any_width() -> None:
    findings = [
        Finding("port", Level.PROBLEM, "taken by \x1b[31m", "stop it " * 8),
        Finding("store", Level.OK, "memory"),
    ]
    for width in (40, 120):
        out = StringIO()
        Console(file=out, width=width).print(as_table(findings))
        lines = out.getvalue().splitlines()
        assert all(len(line) <= width for line in lines)
        assert "\x1b" not in out.getvalue()
        assert lines[1].strip().startswith("fix: stop it")
        assert "store" in lines[-1]
