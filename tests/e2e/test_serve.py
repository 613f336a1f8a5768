"""`carousel serve` from start to end: ready, in use, refused, interrupted."""

from __future__ import annotations

import json
import signal
import urllib.request

import pytest
from e2e.command import carousel, started
from support.server import LSTM

from carousel_server.wire.native.library import SHIPPED


@pytest.fixture
def serving(models_dir):
    """A server started by the command, on free ports: the process and what it said when ready."""
    process = started(
        "serve", "--models", str(models_dir), "--port", "0", "--metrics-port", "0", "--http-port", "off",
        "--device", "cpu", "--set", "slots=8", "--set", "log-level=warning",
    )  # fmt: skip
    with process:
        yield process, json.loads(process.stdout.readline())
        if process.poll() is None:
            process.kill()


def test_it_says_where_it_listens_serves_and_ends_on_ctrl_c(serving):
    process, ready = serving
    assert ready["pid"] == process.pid
    server = f"127.0.0.1:{ready['port']}"
    done = carousel("stream", LSTM, "--server", server, stdin="1,2,3,4\n")
    assert done.returncode == 0, done.stderr
    with urllib.request.urlopen(f"http://127.0.0.1:{ready['metrics_port']}/metrics") as reply:
        text = reply.read().decode()
    assert f'carousel_steps_total{{model="{LSTM}"}} 1' in text
    assert f'carousel_slots_capacity{{model="{LSTM}"}} 8' in text
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "", "")
    assert carousel("health", "--server", server).returncode == 3


def test_without_a_compiler_it_serves_with_grpc_and_says_what_is_missing(models_dir, tmp_path):
    if any(SHIPPED.glob("*.so")):
        pytest.skip("the transport was compiled into the package")
    process = started(
        "serve", "--models", str(models_dir), "--port", "0", "--metrics-port", "0",
        "--http-port", "off", "--device", "cpu",
        "--set", "transport=auto", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"),
    )  # fmt: skip
    with process:
        ready = json.loads(process.stdout.readline())
        assert ready["transport"] == "python"
        assert "apt-get install" in ready["transport_hint"]
        done = carousel("stream", LSTM, "--server", f"127.0.0.1:{ready['port']}", stdin="1,2,3,4\n")
        assert done.returncode == 0, done.stderr
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 0
        assert "transport=python" in err


@pytest.mark.parametrize("key", ["port", "metrics_port"])
def test_a_port_in_use_is_said_with_its_fix(server, models_dir, key):
    taken = getattr(server, key)
    ports = {"port": 0, "metrics_port": 0, "http_port": "off", key: taken}
    settings = [part for name, port in ports.items() for part in ("--set", f"{name}={port}")]
    second = started("serve", "--models", str(models_dir), "--device", "cpu", *settings)
    out, err = second.communicate()
    assert (second.returncode, out) == (1, "")
    assert f"127.0.0.1:{taken}" in err
    assert f"choose another --{key.replace('_', '-')}, or 0" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "cause", "fix"),
    [
        (("--models", "/nowhere"), "there is no folder /nowhere", "carousel models create"),
        (("--prt", "1"), "no such option: --prt", "--port"),
        (("--idle-ttl-s", "2"), "no such option: --idle-ttl-s", "--set NAME=VALUE"),
        (("--port", "many"), "'--port'", "carousel serve --help"),
        (("--port", "70000"), "setting port (command line)", "Port of gRPC"),
        (("--set", "slotz=8"), "unknown setting slotz", "did you mean slots?"),
        (("--set", "slots"), "--set slots has no value", "KEY=VALUE"),
        (("--config", "/nowhere.toml"), "cannot read /nowhere.toml", "TOML"),
        (("--host", "0.0.0.0"), "without TLS", "insecure"),
    ],
)
def test_a_wrong_setting_is_exit_code_2_before_anything_starts(arguments, cause, fix):
    done = carousel("serve", *arguments)
    assert done.returncode == 2, done.stderr
    assert cause in done.stderr
    assert fix in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_a_folder_without_models_is_said_with_its_fix(tmp_path):
    done = carousel(
        "serve",
        "--models",
        str(tmp_path),
        "--port",
        "0",
        "--metrics-port",
        "0",
        "--http-port",
        "off",
    )
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr


def test_a_service_of_its_own_name_is_passed_over_with_a_line_in_the_log(models_dir):
    url = "tcp://10.0.0.1:50051"
    process = started(
        "serve", "--models", str(models_dir), "--port", "0", "--metrics-port", "0",
        "--http-port", "off", "--device", "cpu",
        CAROUSEL_PORT=url, CAROUSEL_SERVICE_HOST="10.0.0.1", CAROUSEL_SERVICE_PORT="50051",
        CAROUSEL_PORT_50051_TCP_ADDR="10.0.0.1",
    )  # fmt: skip
    with process:
        assert json.loads(process.stdout.readline())["event"] == "ready"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 0
    [line] = [line for line in err.splitlines() if "describe Services" in line]
    for name in ("CAROUSEL_PORT", "CAROUSEL_SERVICE_HOST", "CAROUSEL_PORT_50051_TCP_ADDR"):
        assert name in line
