"""`tritonclient` through HAProxy and Envoy, in front of three replicas that are killed, drained and added."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.proxies import Envoy, HAProxy, Proxy
from support.redis import RedisServer

from carousel_models import save
from carousel_models.spec import CustomSpec, StateDeclaration, TritonNames, TritonTensor

from .outsiders import Replicas

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLIENTS = Path(__file__).with_name("triton_clients")
MODULE = "adding:Adding"
NAMES = ("replica-1", "replica-2", "replica-3")
SEQUENCES = 8


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a model that adds up a sequence's inputs."""
    folder = tmp_path_factory.mktemp("adding")
    sys.path.insert(0, str(CLIENTS))
    try:
        from adding import Adding
    finally:
        sys.path.remove(str(CLIENTS))
    names = TritonNames(
        input=TritonTensor(name="INPUT", datatype="INT32"),
        outputs=(TritonTensor(name="OUTPUT", datatype="INT32"),),
    )
    custom = CustomSpec(module=MODULE, states=(StateDeclaration(name="total", shape=()),), width=1)
    save(folder / "adding", stack=Adding(), custom=custom, features=1, triton=names)
    return folder


@pytest.fixture(scope="module")
def fleet(adding: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    path = os.pathsep.join([str(CLIENTS), os.environ.get("PYTHONPATH", "")])
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as redis,
        Replicas(
            adding, redis.url, allow_custom=MODULE, environment={"PYTHONPATH": path}
        ) as running,
    ):
        yield running


class Sequences:
    """The program `behind_a_proxy`. Use it as a context manager."""

    def __init__(self, python: Path, target: str, durability: str) -> None:
        alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [python, CLIENTS / "behind_a_proxy.py", target, durability], env=alone, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._lines = self._process.stdout

    def __enter__(self) -> Sequences:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def go_on(self) -> None:
        """Returns when each sequence has reported twice more."""
        reports: Counter[str] = Counter()
        while sum(count >= 2 for count in reports.values()) < SEQUENCES:
            line = self._lines.readline()
            assert line, "the client has ended"
            assert line[0].isdigit(), line + self._lines.readline()
            reports[line.split()[0]] += 1

    def end(self) -> str:
        """All that it still says."""
        said, _ = self._process.communicate("end\n", timeout=200)
        return said


each_proxy = pytest.mark.parametrize("kind", [HAProxy, Envoy], ids=["haproxy", "envoy"])


@each_proxy
def test_triton_7117_no_state_reaches_another_sequence_while_replicas_come_and_go(
    kind: type[Proxy], python: Path, fleet: Replicas, tmp_path: Path
) -> None:
    """triton-inference-server/server#7117: after a cancel, a sequence had another one's state."""
    fleet.restore(*NAMES)
    with kind(tmp_path) as proxy:
        proxy.serve(fleet.living)
        with Sequences(python, proxy.target, "sync") as sequences:
            sequences.go_on()
            fleet.kill("replica-3")
            sequences.go_on()
            fleet.start("replica-4")
            proxy.serve(fleet.living)
            sequences.go_on()
            fleet.drain("replica-2")
            sequences.go_on()
            fleet.start("replica-3")
            proxy.serve(fleet.living)
            sequences.go_on()
            said = sequences.end()
    assert said.strip().endswith("PASS"), said


@each_proxy
def test_async_sequences_move_while_replicas_are_drained_and_added(
    kind: type[Proxy], python: Path, fleet: Replicas, tmp_path: Path
) -> None:
    """No replica dies, so the store has all steps that were answered, and none is told of a DATA_LOSS."""
    fleet.restore(*NAMES)
    with kind(tmp_path) as proxy:
        proxy.serve(fleet.living)
        with Sequences(python, proxy.target, "async") as sequences:
            sequences.go_on()
            for name in NAMES[:2]:
                fleet.drain(name)
                sequences.go_on()
                fleet.start(name)
                proxy.serve(fleet.living)
                sequences.go_on()
            said = sequences.end()
    assert said.strip().endswith("PASS"), said
