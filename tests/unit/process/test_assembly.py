"""From settings to engines: devices, threads, and what the wire is told."""

from __future__ import annotations

import hashlib
import threading

import pytest
import torch

from carousel_models import PackageError, create
from carousel_models.errors import KernelError
from carousel_server.core.limits import EngineLimits
from carousel_server.engine.describe import describe
from carousel_server.process.assembly import assemble, choose_device, torch_threads
from carousel_server.process.config import ConfigError, Settings
from carousel_server.process.model_folder import load_models
from carousel_server.process.server import wire_options


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device(monkeypatch, wanted, there, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device(wanted) == chosen


def test_a_missing_device_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        choose_device("cuda")


@pytest.mark.parametrize(("wanted", "chosen"), [("cuda:0", "cuda:0"), ("cuda:03", "cuda:3")])
def test_one_gpu_of_several(monkeypatch, wanted, chosen):
    with_gpus(monkeypatch, 4)
    assert choose_device(wanted) == chosen


@pytest.mark.parametrize(("gpus", "said"), [(1, "one GPU, which is 0"), (4, "GPUs 0 to 3")])
def test_a_gpu_that_is_not_there_is_named(monkeypatch, gpus, said):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=f"device=cuda:4: this machine has {said}\nset device="):
        choose_device("cuda:4")


def test_the_threads_of_a_server_use_its_gpu(monkeypatch, models_dir):
    """The one that loads, and each engine's: streams and Triton's programs run on the current GPU."""
    used: dict[str, str] = {}

    def use(device: torch.device) -> None:
        used[threading.current_thread().name] = str(device)

    monkeypatch.setattr("carousel_models.devices.use", use)
    assembly = assemble(Settings(models=models_dir, device="cpu"))
    names = {f"engine-{engine.model.name}" for engine in assembly.engines}
    assembly.stop()
    assert used == dict.fromkeys({*names, threading.current_thread().name}, "cpu")


def with_gpus(monkeypatch, count: int) -> None:
    """As on a machine with so many GPUs, of which CUDA_VISIBLE_DEVICES may hide others."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_threads_leave_a_core_to_grpc(monkeypatch):
    for cores, threads in ((1, 1), (2, 1), (16, 15)):
        monkeypatch.setattr(
            "carousel_server.process.assembly.usable_cores", lambda cores=cores: cores
        )
        assert torch_threads(0) == threads
    assert torch_threads(3) == 3


def test_two_packages_of_one_name_are_refused(tmp_path):
    create("twin", hidden=4, input="features:2", output=1, dir=tmp_path)
    (tmp_path / "twin").rename(tmp_path / "other")
    create("twin", hidden=4, input="features:2", output=1, dir=tmp_path)
    with pytest.raises(PackageError, match="named 'twin'"):
        load_models(Settings(models=tmp_path), "cpu")


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_the_kernel_is_in_the_execution_class(models_dir, kernel):
    (model, *_) = load_models(Settings(models=models_dir, kernel=kernel), "cpu").models
    view = describe(model, EngineLimits(), strict=False)
    assert f" {model.kernel.name} " in view.execution_class
    assert view.execution_class.endswith("invariant" if model.batch_invariant else "bucketed")
    if kernel == "reference":
        assert model.kernel.name == "reference"
        assert describe(model, EngineLimits(), strict=True).execution_class.endswith(" strict")


def test_a_kernel_that_cannot_be_had_is_said(models_dir, monkeypatch):
    def unavailable():
        raise KernelError("there is no C++ compiler")

    monkeypatch.setattr("carousel_models.kernels.load_library", unavailable)
    with pytest.raises(
        ConfigError, match=r"kernel=cpu: there is no C\+\+ compiler\nset kernel=auto"
    ):
        load_models(Settings(models=models_dir, kernel="cpu"), "cpu")
    models = load_models(Settings(models=models_dir, kernel="auto"), "cpu").models
    assert {model.kernel.name for model in models} == {"reference"}


def test_the_kernel_of_a_gpu_is_refused_without_one(models_dir):
    said = "kernel=cuda: the kernel 'cuda' does not run on cpu\nset kernel=auto"
    with pytest.raises(ConfigError) as refused:
        load_models(Settings(models=models_dir, kernel="cuda"), "cpu")
    assert str(refused.value) == said


def test_engines_run_until_they_are_stopped(models_dir):
    assembly = assemble(Settings(models=models_dir, slots=8, device="cpu"))
    try:
        assert all(engine.healthy for engine in assembly.engines)
        assert list(assembly.catalog.engines()) == list(assembly.engines)
    finally:
        assembly.stop()
        assembly.stop()  # idempotent
    assert not any(engine.healthy for engine in assembly.engines)


def test_the_wire_is_told_hashes_only(models_dir):
    digest = hashlib.sha256(b"secret").hexdigest()
    settings = Settings(models=models_dir, tokens={"tenant": digest}, max_handles=3)
    options = wire_options(settings)
    assert options.tokens == {bytes.fromhex(digest): "tenant"}
    assert (options.max_handles, options.max_message_bytes) == (3, 4 << 20)
    assert options.tls is None
