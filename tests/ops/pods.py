"""A replica's pod on loopback: a real server with the variables of the manifests."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from support.server import ServerProcess

import carousel

from .kubectl import Manifest
from .kubernetes import Manifests
from .test_compose import image_environment

MODEL = "sunspots-gru"
ENDLESS = carousel.RetryPolicy(reconnect_s=600.0)
_WAIT_S = 300.0


class Pod(ServerProcess):
    """`carousel serve` as a pod runs it. Use it as a context manager.

    Addresses that a cluster would resolve are replaced by those of this machine.
    """

    def __init__(
        self, manifests: Manifests, name: str, addresses: Mapping[str, str], **secrets: str
    ) -> None:
        """`addresses`: what stands for each text in the variables. `secrets`: values by the Secret's name."""
        super().__init__(Path())
        variables = image_environment()
        variables |= manifests.environment(name, "127.0.0.1", **secrets)
        for there, here in {"0.0.0.0": "127.0.0.1", **addresses}.items():
            variables = {key: value.replace(there, here) for key, value in variables.items()}
        self._container = manifests.container
        self._command = [sys.executable, "-m", "carousel.cli.main", "serve"]
        self._environment |= {"CAROUSEL_PORT": "0", "CAROUSEL_METRICS_PORT": "0", **variables}
        self._environment["CAROUSEL_HTTP_PORT"] = "off"

    def probe(self, name: str) -> int:
        """The status of the reply to a probe ("startup", "readiness", "liveness"); 0 without a reply."""
        asked: Manifest = self._container[f"{name}Probe"]["httpGet"]
        port = {"grpc": self.port, "metrics": self.metrics_port}[asked["port"]]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{asked['path']}") as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def pre_stop(self) -> int:
        """Runs the command before SIGTERM. Returns its exit code."""
        command = self._container["lifecycle"]["preStop"]["exec"]["command"]
        return subprocess.run(command, env=self._environment, check=False).returncode


class Walk(threading.Thread):
    """A client that steps one session until it is stopped, and keeps each output."""

    def __init__(self, target: str, seed: int) -> None:
        super().__init__()
        self.outputs: list[float] = []
        self.error: BaseException | None = None
        self._target = target
        self._inputs = np.random.default_rng(seed)
        self._moved = threading.Condition()
        self._ended = False
        self.inputs: list[float] = []

    def run(self) -> None:
        try:
            with (
                carousel.Client(self._target, retries=ENDLESS, timeout_s=_WAIT_S) as client,
                client.session(MODEL, durability="async") as session,
            ):
                while not self._ended:
                    self.inputs.append(float(self._inputs.standard_normal()))
                    output = session.step([self.inputs[-1]])
                    with self._moved:
                        self.outputs.append(float(output[0]))
                        self._moved.notify_all()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            with self._moved:
                self.error = error
                self._moved.notify_all()

    def wait_for_more(self, steps: int) -> None:
        """Returns after so many further outputs. Raises the client's error."""
        with self._moved:
            goal = len(self.outputs) + steps
            done = self._moved.wait_for(lambda: self.error or len(self.outputs) >= goal, _WAIT_S)
        if self.error is not None:
            raise self.error
        assert done, "the client makes no steps"

    def finish(self) -> None:
        """Ends the walk. Raises the client's error."""
        self._ended = True
        self.join(_WAIT_S)
        if self.error is not None:
            raise self.error


class SecretVolume:
    """A folder as the kubelet keeps it for a Secret: links to a version, which is replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._version = 0

    def publish(self, **files: bytes) -> None:
        """Replaces all files at once. `_` in a name stands for a dot."""
        self._version += 1
        new = self.folder / f"..{self._version}"
        new.mkdir()
        for name, content in files.items():
            (new / name.replace("_", ".")).write_bytes(content)
        link, data = self.folder / "..data_tmp", self.folder / "..data"
        old = data.resolve() if data.exists() else None
        link.symlink_to(new.name)
        link.rename(data)
        for file in new.iterdir():
            if not (self.folder / file.name).is_symlink():
                (self.folder / file.name).symlink_to(f"..data/{file.name}")
        if old is not None:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
