"""`carousel doctor`: the command with and without a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from e2e.command import Done, carousel
from support.server import ServerProcess, make_models


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(make_models(tmp_path_factory.mktemp("models")), store="memory") as running:
        yield running


def doctor(*arguments: str) -> Done:
    ports = ("--set", "port=0", "--set", "metrics_port=0", "--set", "device=cpu")
    return carousel("doctor", *arguments, *ports)


def findings(done: Done) -> dict[str, dict[str, str]]:
    return {one["check"]: one for one in json.loads(done.stdout)["findings"]}


def test_all_is_well(tmp_path: Path) -> None:
    done = doctor("--set", f"store=sqlite:{tmp_path}/s.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert "packages" in done.stdout
    assert " ok" in done.stdout.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_running_server(server: ServerProcess) -> None:
    metrics = f"127.0.0.1:{server.metrics_port}"
    done = doctor(server.target, "--metrics", metrics, "-o", "json")
    assert done.returncode == 0
    found = findings(done)
    assert found["server"]["found"].endswith("is serving")
    assert found["its store"]["level"] == "ok"
    assert found["its version"]["found"].endswith("as here")
    assert found["its clock"]["level"] == "ok"
    counts = json.loads(done.stdout)["counts"]
    assert sum(counts.values()) == len(json.loads(done.stdout)["findings"])


def test_its_own_ports_are_a_warning(server: ServerProcess) -> None:
    ports = ("--set", f"port={server.port}", "--set", f"metrics_port={server.metrics_port}")
    done = carousel("doctor", *ports, "--set", "device=cpu", "-o", "json")
    assert done.returncode == 0
    found = findings(done)["port"]
    assert found["level"] == "warning"
    assert f"process {server.process.pid} (carousel_server)" in found["found"]


def test_problems_end_with_exit_code_1_and_no_secret_is_printed() -> None:
    store = "redis://user:hidden-word@127.0.0.1:1/0"
    done = doctor("127.0.0.1:1", "--set", f"store={store}", "--token", "hidden-word")
    assert done.returncode == 1
    assert "2 problems: store, server" in done.stderr
    assert "fix: start Redis there" in done.stdout
    assert "no server answers at 127.0.0.1:1" in done.stdout
    assert "hidden-word" not in done.stdout + done.stderr


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "carousel.toml"
    file.write_text("slotz = 3")
    done = doctor("--config", str(file), "-o", "json")
    assert done.returncode == 1
    found = findings(done)["settings"]
    assert (found["level"], found["fix"]) == ("problem", "did you mean slots?")


def test_without_the_server_s_packages() -> None:
    hidden = [name for name in sys.modules if name.split(".")[0] == "carousel_server"]
    with mock.patch.dict(sys.modules):
        for name in hidden:
            del sys.modules[name]
        sys.modules["carousel_server"] = None  # type: ignore[assignment]
        done = carousel("doctor", "-o", "json")
    assert done.returncode == 0
    assert set(findings(done)) == {"python", "packages"}
