"""NVIDIA's own clients on our server, unmodified, in an environment of their own.

Both come from the package registry. Where it cannot be reached, or has no build for this machine, the
tests are skipped by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.triton import Load, run_load, unpacked
from bench.triton.wheels import Unpacked
from support.server import FEATURES, LSTM, ServerProcess

from carousel_models import save
from carousel_models.spec import CustomSpec, StateDeclaration, TritonNames, TritonTensor

CLIENTS = Path(__file__).with_name("triton_clients")
MODULE = "plus_one:PlusOneOnStart"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def simple_sequence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the model that Triton's examples use."""
    folder = tmp_path_factory.mktemp("simple")
    sys.path.insert(0, str(CLIENTS))
    try:
        from plus_one import PlusOneOnStart
    finally:
        sys.path.remove(str(CLIENTS))
    states = (StateDeclaration(name="count", shape=(), dtype="int64"),)
    names = TritonNames(
        input=TritonTensor(name="INPUT", datatype="INT32"),
        outputs=(TritonTensor(name="OUTPUT", datatype="INT32"),),
    )
    custom = CustomSpec(module=MODULE, states=states, width=1)
    save(
        folder / "simple_sequence", stack=PlusOneOnStart(), custom=custom, features=1, triton=names
    )
    path = os.pathsep.join([str(CLIENTS), os.environ.get("PYTHONPATH", "")])
    with ServerProcess(folder, allow_custom=MODULE, environment={"PYTHONPATH": path}) as server:
        yield server


@pytest.mark.parametrize("program", ["calls", "streams", "aio_streams"])
def test_tritonclient_runs_sequences(
    program: str, python: Path, simple_sequence: ServerProcess
) -> None:
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, CLIENTS / f"{program}.py", simple_sequence.target],
        capture_output=True, text=True, timeout=120, env=alone,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("PASS")


# -- perf_analyzer


@pytest.fixture(scope="module")
def wheels() -> Unpacked:
    """perf_analyzer, if it can be had and run here."""
    try:
        parts = unpacked()
    except subprocess.CalledProcessError:
        pytest.skip("perf_analyzer cannot be downloaded")
    libraries = {"LD_LIBRARY_PATH": str(parts.client_libraries)}
    try:
        done = subprocess.run(
            [parts.perf_analyzer, "--version"], env=os.environ | libraries, capture_output=True
        )
    except OSError as error:
        pytest.skip(f"perf_analyzer does not run here: {error}")
    if done.returncode == 127:
        pytest.skip(f"perf_analyzer lacks a library: {done.stderr.decode()[-300:]}")
    return parts


@pytest.mark.parametrize("streaming", [True, False], ids=["streams", "calls"])
@pytest.mark.parametrize(
    "how", [{"concurrency": 8}, {"rate_per_s": 100.0, "sequences": 8}], ids=["closed", "poisson"]
)
def test_perf_analyzer_runs_sequences(
    how: dict[str, float], streaming: bool, wheels: Unpacked, server: ServerProcess
) -> None:
    load = Load(LSTM, FEATURES, streaming=streaming, seconds=1.0, sequence_steps=20, **how)
    result = run_load(wheels, server.target, load)
    assert result.steps_per_s > 0
    assert result.p99_ms >= result.p50_ms > 0
