"""A bad package and a custom module, as an operator meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e.command import carousel, environment, started
from support.server import ServerProcess

import carousel as sdk
from carousel_models import create, save
from carousel_models.spec import CustomSpec, StateDeclaration

MODULE = """
import torch

class Leaky(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = torch.nn.Linear(width, 4)

    def step(self, x, state):
        h = 0.5 * state[0] + torch.tanh(self.inner(x))
        return h, (h,)
"""
NAME = "leaky_of_this_test:Leaky"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good package and a damaged one."""
    create("good", hidden=4, input="features:2", output=1, dir=tmp_path / "models")
    create("cut", hidden=4, dir=tmp_path / "models")
    (tmp_path / "models" / "cut" / "model.safetensors").write_bytes(b"")
    return tmp_path / "models"


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a custom module, whose file is in `code`."""
    import importlib

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "leaky_of_this_test.py").write_text(MODULE)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "code")
        module = importlib.import_module("leaky_of_this_test").Leaky(3)
        spec = CustomSpec(
            module=NAME,
            kwargs={"width": 3},
            states=(StateDeclaration(name="h", shape=(4,)),),
            width=4,
        )
        save(tmp_path / "models" / "leaky", stack=module, custom=spec, features=3)
    monkeypatch.delitem(__import__("sys").modules, "leaky_of_this_test")
    return tmp_path


@pytest.mark.parametrize("front_ends", [0, 1])
def test_the_good_ones_are_served_and_the_bad_one_is_said(folder: Path, front_ends: int) -> None:
    with (
        ServerProcess(folder, front_ends=front_ends) as server,
        sdk.Client(server.target) as client,
    ):
        assert server.models == ["good"]
        assert client.session("good").step([1.0, 2.0]).shape == (1,)
        assert client.health() is sdk.Health.SERVING
        assert client.health("good") is sdk.Health.SERVING
        assert client.health("cut") is sdk.Health.NOT_SERVING
        assert client.health("other") is sdk.Health.UNKNOWN
        server.metrics_once("carousel_models_refused 1.0")
    assert "model cut is refused and not served" in server.text
    assert "not a safetensors file" in server.text


def test_refuse_keeps_the_server_from_starting(folder: Path) -> None:
    server = ServerProcess(folder, bad_models="refuse")
    with pytest.raises(AssertionError, match="not a safetensors file"), server:
        pass
    assert server.process.returncode == 2


def test_config_check_finds_it(folder: Path) -> None:
    given = (
        "--set",
        f"models={folder}",
        "--set",
        "port=0",
        "--set",
        "metrics-port=0",
        "--set",
        "http-port=off",
    )
    done = carousel("config", "check", *given, "--set", "store=postgres://db")
    assert done.returncode == 2
    assert "store: the kind of store is unknown" in done.stderr
    assert "models: " in done.stderr
    assert "fix: copy the package again" in done.stderr
    assert "valid" not in done.stdout
    done = carousel("config", "check", *given, "-o", "json")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert not report["valid"]
    assert [problem["setting"] for problem in report["problems"]] == ["models"]
    done = carousel("config", "check", *given, "--settings-only")
    assert (done.returncode, "valid; 4 settings are given" in done.stdout) == (0, True)


def test_a_custom_module_is_checked_by_name(custom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = str(custom / "models")
    done = carousel("models", "check", packages)
    assert done.returncode == 1
    assert f"wants to import the custom module '{NAME}', which is not allowed here" in done.stderr
    assert "--allow-custom" in done.stderr
    done = carousel("models", "check", packages, "--allow-custom", NAME)
    assert done.returncode == 1
    assert "No module named 'leaky_of_this_test'" in done.stderr
    assert "PYTHONPATH" in done.stderr
    monkeypatch.syspath_prepend(custom / "code")
    done = carousel("models", "check", packages, "--allow-custom", f"a:B,{NAME}", "-o", "json")
    assert [report["ok"] for report in json.loads(done.stdout)] == [True]


def test_serve_takes_the_name_of_a_custom_module(
    custom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{custom / 'code'}:{environment().get('PYTHONPATH', '')}")
    process = started(
        "serve", "--models", str(custom / "models"), "--port", "0", "--metrics-port", "0",
        "--http-port", "off",
        "--allow-custom", NAME, "--allow-custom", "other:Class",
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["models"], ready["refused"]) == (["leaky"], [])
        with sdk.Client(f"127.0.0.1:{ready['port']}") as client:
            rows = client.session("leaky").steps([[1.0, 2.0, 3.0]] * 3)
        assert rows.shape == (3, 4)
    finally:
        process.terminate()
        process.communicate(timeout=60)
