"""The probe of the image says what the endpoint says, with an exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from carousel_server.metrics import Check, Metrics, Probes
from carousel_server.probe import main


@pytest.mark.parametrize(("fault", "code"), [("", 0), ("disk full", 1)])
def test_a_probe_ends_as_the_server_is(
    metrics: Metrics, capsys: pytest.CaptureFixture[str], fault: str, code: int
) -> None:
    probes = Probes(ready=lambda: [Check("store", fault)])
    server = metrics.serve("127.0.0.1", 0, probes)
    environment = {"CAROUSEL_METRICS_PORT": str(server.port), "CAROUSEL_METRICS_HOST": "0.0.0.0"}
    try:
        assert main([], environment) == code
        assert ("ok store" in capsys.readouterr().out) is (code == 0)
        assert main(["livez"], environment) == 0
    finally:
        server.stop()


def test_nobody_there_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {"CAROUSEL_METRICS_PORT": "1"}) == 1
    assert "no answer at port 1" in capsys.readouterr().out
    assert main(["healthz"], {}) == 2


def test_a_services_variable_is_no_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([], {"CAROUSEL_METRICS_PORT": "tcp://10.0.0.1:9464", "CAROUSEL_METRICS_HOST": "::1"})
        == 1
    )
    assert "no answer" in capsys.readouterr().out


def test_it_costs_no_heavy_import() -> None:
    code = (
        "import sys; from carousel_server import probe; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'grpc', 'numpy', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
