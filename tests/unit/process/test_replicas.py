"""From the settings of several replicas to those of each."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from carousel_server.process.config import ConfigError, Settings
from carousel_server.process.config_sources import load_settings
from carousel_server.process.gpus import count_gpus
from carousel_server.process.replicas import planned


def plan(gpus: int = 0, cores: int = 16, **settings: Any) -> Sequence[Settings]:
    return planned(Settings(**settings), lambda: gpus, lambda: cores)


def uncounted() -> int:
    raise AssertionError("the GPUs need not be counted")


def test_one_server_is_as_it_was_set() -> None:
    settings = Settings(port=7)
    assert planned(settings, uncounted) == [settings]


def test_auto_is_a_replica_for_each_gpu() -> None:
    each = plan(gpus=4, replicas="auto", port=6000, metrics_port=7000, http_port=8000)
    assert [one.http_port for one in each] == [8000, 8001, 8002, 8003]
    assert [one.device for one in each] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert [one.port for one in each] == [6000, 6001, 6002, 6003]
    assert [one.metrics_port for one in each] == [7000, 7001, 7002, 7003]
    assert {one.replicas for one in each} == {4}


@pytest.mark.parametrize(
    ("gpus", "device", "said"),
    [
        (0, "auto", "no CUDA device here, so one process serves; replicas=N"),
        (1, "auto", "finds 1 CUDA device"),
        (4, "cpu", "device=cpu, so one process serves; replicas=N"),
    ],
)
def test_auto_is_one_process_elsewhere_and_says_why(
    caplog: pytest.LogCaptureFixture, gpus: int, device: str, said: str
) -> None:
    caplog.set_level("INFO")
    (one,) = plan(gpus=gpus, replicas="auto", device=device, port=6000)
    assert (one.replicas, one.device, one.port) == (1, device, 6000)
    assert said in caplog.text


def test_more_replicas_than_gpus_take_turns_on_them() -> None:
    assert [one.device for one in plan(gpus=2, replicas=3)] == ["cuda:0", "cuda:1", "cuda:0"]


def test_on_a_cpu_the_cores_are_divided() -> None:
    each = planned(Settings(replicas=4, device="cpu"), uncounted, lambda: 16)
    assert [(one.device, one.torch_threads) for one in each] == [("cpu", 3)] * 4
    assert {one.device for one in plan(replicas=2)} == {"cpu"}, "auto, where there is no GPU"
    assert {one.torch_threads for one in plan(replicas=4, cores=2)} == {1}
    assert {one.torch_threads for one in plan(replicas=4, torch_threads=5)} == {5}


def test_free_ports_are_free_for_each() -> None:
    each = plan(replicas=2, port=0, metrics_port=0)
    assert {(one.port, one.metrics_port) for one in each} == {(0, 0)}
    names = [one.replica for one in each]
    assert len(set(names)) == 2, "a name that remains over a restart, whatever the port"
    assert all(names)


def test_each_replica_has_a_name_of_its_own() -> None:
    assert [one.replica for one in plan(replicas=2, replica="host")] == ["host-0", "host-1"]
    assert [one.replica for one in plan(replicas=2, port=6000)] == ["", ""], "their ports differ"


def test_each_replica_advertises_its_own_port() -> None:
    each = plan(replicas=2, port=6000, advertise="gpu-7.internal:50051")
    assert [one.advertise for one in each] == ["gpu-7.internal:50051", "gpu-7.internal:50052"]
    assert [one.advertise for one in plan(replicas=2, advertise="[fd00::1]:9")][1] == "[fd00::1]:10"


def test_what_was_not_set_stays_so() -> None:
    """Some quotas apply only if they are set."""
    each = plan(replicas=2, tenant_steps=9)
    assert each[1].tenant_limits() == Settings(tenant_steps=9).tenant_limits()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "cuda:1", "replicas": 2}, "device=cuda:1 is one GPU, and replicas=2 uses all"),
        ({"device": "cuda:1", "replicas": "auto"}, "CUDA_VISIBLE_DEVICES"),
        ({"port": 65_530, "replicas": 8}, "8 replicas need port to port + 7"),
        ({"metrics_port": 65_535, "replicas": 2}, "lower metrics_port"),
        ({"advertise": "a:65535", "replicas": 2}, "lower the port of advertise"),
        ({"store": "memory", "replicas": 2}, "in memory is of one process"),
        ({"port": 9460, "replicas": 8}, "less than 8 apart"),
        ({"port": 9466, "replicas": 8}, "less than 8 apart"),
    ],
)
def test_settings_that_do_not_fit_several_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("+", r"\+")):
        plan(gpus=2, **settings)


def test_ports_on_different_addresses_do_not_meet() -> None:
    each = plan(replicas=2, host="127.0.0.1", port=9463, metrics_host="127.0.0.2")
    assert [one.metrics_port for one in each] == [9464, 9465]


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5", ""])
def test_a_number_of_replicas_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"setting replicas .*\n.*auto is one for each GPU"):
        load_settings({"replicas": given}, environment={})


def test_a_number_is_read_from_text() -> None:
    settings, _ = load_settings({}, environment={"CAROUSEL_REPLICAS": "3"})
    assert settings.replicas == 3


def test_gpus_are_counted_by_torch_in_a_process_of_its_own() -> None:
    torch = pytest.importorskip("torch")
    assert count_gpus() == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


@pytest.mark.parametrize(
    "run",
    [
        lambda *_, **__: subprocess.CompletedProcess([], 0, b"no number"),
        lambda *_, **__: (_ for _ in ()).throw(subprocess.CalledProcessError(1, "python")),
        lambda *_, **__: (_ for _ in ()).throw(OSError("no processes left")),
    ],
)
def test_gpus_that_cannot_be_counted_are_to_be_named(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., object]
) -> None:
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConfigError, match=r"cannot be counted: .*\nset their number: replicas=N"):
        count_gpus()
