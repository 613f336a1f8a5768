"""How a server ends when something is wrong: at start, on a dead device, with a thread that hangs.

Each test runs a process that is spoilt in one place, so that nothing but the spoilt part is not real.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from support.server import FEATURES, LSTM
from support.wire import Stubs

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.process.server import LOADER, Server

PROMPT_S = 90.0
"""What a test waits at most; on an idle machine nothing here takes a tenth of it."""

RUN = "import sys; from carousel_server.__main__ import main; sys.exit(main(sys.argv[1:]))"

LOADS_FOR_EVER = """
import time, carousel_server.process.model_folder as model_folder
def load(*_, **__):
    print("loading", flush=True)
    time.sleep(3600)
model_folder.load = load
"""

DIES = """
from carousel_server.engine import Engine
Engine.healthy = property(lambda self: False)
"""

DIES_BUT_ONE = """
from carousel_server.engine import Engine
Engine.healthy = property(lambda self: self.model.name == "lstm")
"""

HANGS = """
import time
from carousel_server.engine import engine, runner
engine._JOIN_S = 0.2
def run(*_, **__):
    time.sleep(3600)
runner.Runner.run = run
"""


@contextmanager
def spoilt(code, models_dir, **settings):
    """A server process that runs `code` first."""
    given = {"models": models_dir, "port": 0, "metrics_port": 0, "device": "cpu", **settings}
    flags = [
        text for key, value in given.items() for text in (f"--{key.replace('_', '-')}", str(value))
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", code + RUN, *flags],
        env={k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_signal_while_models_load_ends_it_in_good_order(models_dir):
    with spoilt(LOADS_FOR_EVER, models_dir) as process:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PROMPT_S)
    assert (process.returncode, out) == (0, "")
    assert "stopped before it was ready" in err
    assert "Traceback" not in err


def test_a_server_without_a_healthy_model_ends_with_1(models_dir):
    with spoilt(DIES, models_dir, unhealthy_grace_s=0.1) as process:
        _, err = process.communicate(timeout=PROMPT_S)
    assert process.returncode == 1
    for said in ("model lstm is unhealthy", "no model is healthy", "stopped"):
        assert said in err
    assert "Traceback" not in err


async def test_one_healthy_model_keeps_the_server_and_serves(models_dir):
    # Only errors are logged: nobody reads the pipe while the calls are made.
    settings = {"unhealthy_grace_s": 0.1, "log_level": "error"}
    with spoilt(DIES_BUT_ONE, models_dir, **settings) as process:
        port = json.loads(await asyncio.to_thread(process.stdout.readline))["port"]
        async with Stubs(f"127.0.0.1:{port}") as stubs:
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:  # five times the grace
                await stubs.models.ListModels(pb.ListModelsRequest())
            session = await stubs.open(LSTM)
            inputs = np.zeros(FEATURES, "<f4").tobytes()
            await stubs.inference.Step(
                pb.StepRequest(session_id=session.id, first_seq=1, inputs=inputs)
            )
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, PROMPT_S) == 0


async def test_a_thread_that_hangs_in_the_device_cannot_hold_the_process(models_dir):
    only = models_dir / LSTM
    with spoilt(HANGS, only, tick_timeout_s=0.2, unhealthy_grace_s=0.2) as process:
        port = json.loads(await asyncio.to_thread(process.stdout.readline))["port"]
        async with Stubs(f"127.0.0.1:{port}") as stubs:
            session = await stubs.open(LSTM)
            inputs = np.zeros(FEATURES, "<f4").tobytes()
            step = stubs.inference.Step(
                pb.StepRequest(session_id=session.id, first_seq=1, inputs=inputs)
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await step
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        code = await asyncio.to_thread(process.wait, PROMPT_S)
        err = process.stderr.read()
    assert code == 1
    for said in ("model lstm is unhealthy", "threads still running: engine-lstm"):
        assert said in err


@pytest.mark.parametrize("flag", ["--port", "--metrics-port", "--http-port"])
def test_a_taken_port_is_found_before_anything_is_loaded(run, monkeypatch, models_dir, flag):
    def assemble(_):
        raise AssertionError("was loaded")

    monkeypatch.setattr("carousel_server.process.assembly.assemble", assemble)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code, said = run("--models", str(models_dir), flag, str(port))
    assert code == 1
    assert "address already in use\n  fix: is another server running there?" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "192.0.2.1", "--insecure"], "name an address of this machine"),
        (["--metrics-host", "192.0.2.1"], "name an address of this machine"),
    ],
)
def test_an_address_of_another_machine_is_a_clear_refusal(run, models_dir, flags, said):
    code, text = run("--models", str(models_dir), *flags)
    assert code == 1
    assert said in text


def test_more_slots_than_memory_is_a_setting_to_change(run, models_dir):
    code, said = run("--models", str(models_dir), "--slots", "2000000000")
    assert code == 2
    assert "2000000000 slots do not fit" in said
    assert "lower slots" in said


class EndsWhenAwaited(threading.Thread):
    """A loader that has told its result but not ended yet."""

    def __init__(self):
        self._awaited = threading.Event()
        super().__init__(name=LOADER, target=self._awaited.wait, daemon=True)

    def join(self, timeout=None):
        assert timeout is not None
        self._awaited.set()
        super().join(PROMPT_S)


def test_a_loader_that_is_about_to_end_does_not_cut_the_process_off(run, tmp_path):
    EndsWhenAwaited().start()
    code, said = run("--models", str(tmp_path))
    assert code == 2
    assert "no model packages" in said


def test_a_file_that_is_no_certificate_is_said(run, models_dir, tmp_path):
    pem = tmp_path / "no.pem"
    pem.write_text("this is no PEM")
    code, said = run("--models", str(models_dir), "--tls-cert", str(pem), "--tls-key", str(pem))
    assert code == 2
    assert "tls_cert, tls_key or tls_client_ca cannot be used" in said


def test_a_manifest_that_is_no_json_is_refused_with_its_name(run, tmp_path):
    package = tmp_path / "broken"
    package.mkdir()
    (package / "manifest.json").write_text("{")
    (package / "model.safetensors").write_bytes(b"")
    code, said = run("--models", str(tmp_path))
    assert code == 2
    assert "broken" in said
    assert "Traceback" not in said


async def test_a_server_that_never_started_can_be_stopped(models_dir):
    from carousel_server.process.config import Settings

    await Server(Settings(models=models_dir)).stop()
