"""`carousel doctor` on this machine: each common mistake has a finding with its fix, and no trace is left."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certificates import make_certificates, needs_openssl

from carousel_models import create
from carousel_models.kernels import compiling
from carousel_server.process import access, diagnosis, machine
from carousel_server.process.config import Settings
from carousel_server.process.findings import Finding, Level, halves
from carousel_server.process.listeners import Listener

Diagnose = Callable[..., dict[str, Finding]]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    create("good", hidden=4, input="features:2", dir=tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def diagnose(models: Path) -> Diagnose:
    def run(**settings: Any) -> dict[str, Finding]:
        given = {"models": models, "port": 0, "metrics_port": 0, "http_port": 0, "device": "cpu"}
        given |= settings
        findings = list(diagnosis.diagnose(Settings(**given)))
        for one in findings:
            assert one.found
            assert bool(one.fix) == (one.level in (Level.WARNING, Level.PROBLEM)), one
        return {one.check: one for one in findings}

    return run


def test_a_good_machine(diagnose: Diagnose) -> None:
    found = diagnose()
    assert not [one for one in found.values() if one.level is Level.PROBLEM]
    assert found["models"].found.startswith("1 packages in ")
    assert found["store"].found.startswith("none")
    assert next(iter(found)) == "device"


def test_a_port_that_another_program_has(diagnose: Diagnose) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = diagnose(port=taken.getsockname()[1])["port"]
    assert found.level is Level.PROBLEM
    assert f"process {os.getpid()}" in found.found
    assert str(os.getpid()) in found.fix


def test_a_port_of_a_running_server_is_a_warning(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "listener", lambda _: Listener(7, "carousel_server"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = diagnose(metrics_port=taken.getsockname()[1])["metrics port"]
    assert (found.level, "process 7" in found.found) == (Level.WARNING, True)
    assert "choose another metrics port" in found.fix


def test_the_ports_of_each_replica(diagnose: Diagnose, tmp_path: Path) -> None:
    settings = Settings(
        models=tmp_path / "models", device="cpu", replicas=2, store=f"sqlite:{tmp_path}/s.db",
        port=0, metrics_port=0,
    )  # fmt: skip
    assert [one.check for one in diagnosis.diagnose(settings)].count("port") == 2
    with_memory = diagnose(replicas=2, store="memory")["replicas"]
    assert with_memory.level is Level.PROBLEM


def test_a_bad_package(diagnose: Diagnose, models: Path) -> None:
    (models / "good" / "model.safetensors").write_bytes(b"")
    found = diagnose()["models"]
    assert (found.level, found.fix) == (Level.PROBLEM, "copy the package again")
    assert "is not a directory" in diagnose(models=models / "none")["models"].found


@needs_openssl
def test_tls_files(diagnose: Diagnose, tmp_path: Path) -> None:
    folder = make_certificates(tmp_path)
    files = {"tls_cert": folder / "server.pem", "tls_key": folder / "server.key"}
    (folder / "server.key").chmod(0o644)
    found = diagnose(**files, tls_client_ca=folder / "ca.pem")
    assert found["TLS"].level is Level.OK
    assert found["certificate"].level is Level.WARNING  # it is valid for two days
    assert "for 2 days" in found["certificate"].found
    assert found["clients' authority"].level is Level.WARNING
    assert found["key"].fix.startswith("chmod 600")
    found = diagnose(tls_cert=folder / "server.pem", tls_key=folder / "client.key")
    assert found["TLS"].level is Level.PROBLEM
    assert "certificate" not in found


@needs_openssl
@pytest.mark.parametrize(("days", "said"), [(9, "expired 7 days ago"), (-9, "valid only from")])
def test_a_certificate_of_another_time(
    diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, said: str
) -> None:
    folder = make_certificates(tmp_path)
    now_s = time.time() + days * 86_400
    monkeypatch.setattr(access.time, "time", lambda: now_s)
    found = diagnose(tls_cert=folder / "server.pem", tls_key=folder / "server.key")["certificate"]
    assert found.level is Level.PROBLEM
    assert said in found.found


def test_tokens(diagnose: Diagnose, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(f'one = "{"a" * 64}"\ntwo = ["{"b" * 64}", "{"c" * 64}"]\n')
    assert diagnose(tokens_file=file)["tokens"].found.startswith("2 tenants")
    file.write_text("one = 3")
    assert diagnose(tokens_file=file)["tokens"].level is Level.PROBLEM
    found = diagnose(tokens={"one": "d" * 64})["tokens"]
    assert (found.level, "d" * 64 in found.found) == (Level.OK, False)
    assert diagnose(host="0.0.0.0", insecure=True)["tokens"].level is Level.WARNING


def test_a_store(diagnose: Diagnose, tmp_path: Path) -> None:
    assert diagnose(store="memory")["store"].level is Level.OK
    assert diagnose(store="redis://:secret@127.0.0.1:1/0")["store"].level is Level.PROBLEM
    found = diagnose(store=f"sqlite:{tmp_path}/new.db")
    assert found["store"].found.endswith("a server will make it")
    assert not (tmp_path / "new.db").exists()


def test_nothing_is_compiled_or_written(
    diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "SHIPPED", tmp_path)
    found = diagnose(store=f"sqlite:{tmp_path}/new.db", transport="auto")
    assert found["models"].level is Level.OK
    assert [file.name for file in tmp_path.iterdir()] == ["models"]


def test_few_open_files(diagnose: Diagnose) -> None:
    found = diagnose(max_connections=1 << 20)["open files"]
    assert found.level is Level.WARNING
    assert "lower max_connections" in found.fix


def test_more_threads_than_cores(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 2.5)
    assert diagnose()["cores"].level is Level.OK
    found = diagnose(torch_threads=8)["cores"]
    assert "a quota of 2.5 cores" in found.found
    assert found.level is Level.WARNING
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    assert diagnose()["cores"].level is Level.WARNING


def test_a_gpu_that_torch_does_not_see(
    diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_DRIVER", tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert diagnose(device="auto")["device"].level is Level.WARNING
    found = diagnose(device="cuda")
    assert found["device"].level is Level.PROBLEM
    assert found["kernel"].level is Level.SKIPPED


@pytest.mark.parametrize(
    ("outlook", "wanted", "level"),
    [
        ("native", "auto", Level.OK),
        ("native, compiled at the first start", "native", Level.OK),
        ("python; g++ not found: apt-get install g++", "python", Level.OK),
        ("python; g++ not found: apt-get install g++", "auto", Level.WARNING),
        ("python; g++ not found: apt-get install g++", "native", Level.PROBLEM),
    ],
)
def test_the_transport(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, outlook: str, wanted: str, level: Level
) -> None:
    monkeypatch.setattr(machine, "transport_outlook", lambda: outlook)
    found = diagnose(transport=wanted)["transport"]
    assert found.level is level
    if level is not Level.OK:
        assert found.fix == "apt-get install g++"


def test_errors_are_split() -> None:
    assert halves(ValueError("cause\nfix")) == ("cause", "fix")
    assert halves(ValueError("a; b; fix")) == ("a; b", "fix")
    assert halves(ValueError("cause")) == ("cause", "")
