"""`carousel config check` meets what a start would meet, and leaves nothing behind."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from carousel_models import create
from carousel_server.process.config import Settings
from carousel_server.process.rehearsal import Problem, rehearse
from carousel_server.store import SqliteStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create("good", hidden=4, input="features:2", dir=tmp_path / "models")
    return tmp_path / "models"


def problems(folder: Path, **settings: Any) -> list[Problem]:
    given = {"models": folder, "port": 0, "metrics_port": 0, "http_port": 0, "device": "cpu"}
    given |= settings
    return rehearse(Settings(**given))


def only(folder: Path, **settings: Any) -> Problem:
    (problem,) = problems(folder, **settings)
    assert problem.cause
    assert problem.fix
    return problem


def test_a_start_that_would_succeed(folder: Path) -> None:
    assert problems(folder, store="memory") == []


def test_the_models(folder: Path, tmp_path: Path) -> None:
    assert "is not a directory" in only(tmp_path / "nowhere").cause
    (tmp_path / "empty").mkdir()
    assert only(tmp_path / "empty").setting == "models"
    create("cut", hidden=4, dir=folder)
    (folder / "cut" / "model.safetensors").write_bytes(b"")
    for bad_models in ("skip", "refuse"):
        problem = only(folder, bad_models=bad_models)
        assert problem.setting == "models"
        assert "not a safetensors file" in problem.cause
        assert problem.fix == "copy the package again"


@pytest.mark.parametrize("setting", ["port", "metrics_port"])
def test_a_port_that_is_taken(folder: Path, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        problem = only(folder, **{setting: port})
    assert (problem.setting, str(port) in problem.cause) == (setting, True)
    assert f"--{setting.replace('_', '-')}" in problem.fix


@pytest.mark.parametrize(
    ("store", "cause"),
    [
        ("postgres://db", "kind of store is unknown"),
        ("sqlite:", "names no file"),
        ("sqlite:/nowhere/at/all.db", "folder of /nowhere/at/all.db does not exist"),
        ("redis://127.0.0.1:1/0", "127.0.0.1:1"),
    ],
)
def test_a_store_that_cannot_be_used(folder: Path, store: str, cause: str) -> None:
    problem = only(folder, store=store)
    assert problem.setting == "store"
    assert cause in problem.cause


def test_a_file_of_another_program(folder: Path, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    assert only(folder, store=f"sqlite:{tmp_path}/other.db").setting == "store"


def test_a_store_that_a_server_has(folder: Path, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "sessions.db")
    try:
        assert "is in use by process" in only(folder, store=f"sqlite:{tmp_path}/sessions.db").cause
    finally:
        store.close()
    assert problems(folder, store=f"sqlite:{tmp_path}/sessions.db") == []


def test_no_file_is_left(folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for store in (
        f"sqlite:{tmp_path}/new.db",
        f"{tmp_path}/new.db",
        f"sqlite:///{tmp_path}/new.db",
    ):
        assert problems(folder, store=store) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_files_of_tls(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    files = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "cert.pem"}
    assert only(folder, **files).setting == "tls_cert"
    files["tls_key"] = tmp_path / "missing.pem"
    assert "missing.pem" in only(folder, **files).cause


def test_custom_modules(folder: Path) -> None:
    allowed = ("tests.unit.models.custom_modules:Cell",)
    assert problems(folder, allow_custom=allowed) == []
    found = problems(
        folder, allow_custom=("nowhere_at_all:Cell", f"{allowed[0]}s", "no-name", *allowed)
    )
    assert [problem.setting for problem in found] == ["allow_custom"] * 3
    assert "No module named 'nowhere_at_all'" in found[0].cause
    assert "PYTHONPATH" in found[0].fix
    assert "AttributeError" in found[1].cause
    assert "is no import name" in found[2].cause


def test_a_device_and_a_kernel_that_are_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert only(folder, device="cuda").setting == "device"
    problem = only(folder, kernel="cuda")
    assert (problem.setting, problem.fix) == ("kernel", "set kernel=auto")


def test_all_problems_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path / "nowhere", store="postgres://db", port=1 << 4, host="192.0.2.1",
                     insecure=True)  # fmt: skip
    assert [problem.setting for problem in found] == ["port", "http_port", "store", "models"]


def test_the_ports_of_every_replica(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = problems(folder, replicas=2, port=port - 1)
    # Another program may have the port of the first replica.
    assert any(f"127.0.0.1:{port}" in problem.cause for problem in found)
    assert {problem.setting for problem in found} == {"port"}


def test_settings_that_do_not_fit_replicas(folder: Path) -> None:
    assert only(folder, replicas=2, port=65_535).setting == "replicas"
