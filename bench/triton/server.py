"""A real Triton server with the measured LSTM, which is started again when it crashes."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from ctypes.util import find_library
from pathlib import Path
from types import TracebackType

from carousel_models.package import WEIGHTS, read_manifest

from .load import Load, LoadFailedError, LoadResult, run_load
from .wheels import Unpacked

_READY_WITHIN_S = 90.0
_EXIT_WITHIN_S = 15.0

_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {max_batch}
input [{{ name: "x" data_type: TYPE_FP32 dims: [ {width} ] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [ {output} ] }}]
sequence_batching {{
  max_sequence_idle_microseconds: 600000000
  control_input [
    {{ name: "START" control [{{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }}] }},
    {{ name: "END" control [{{ kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] }}] }},
    {{ name: "CORRID" control [{{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }}] }}
  ]
  oldest {{
    max_candidate_sequences: {sequences}
    max_queue_delay_microseconds: {queue_delay_us}
  }}
}}
instance_group [{{ kind: KIND_CPU count: 1 }}]
parameters {{ key: "weights" value: {{ string_value: "{weights}" }} }}
"""


def missing(parts: Unpacked) -> str:
    """Why Triton cannot run here; empty if it can."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "Triton's wheel is for Linux on x86_64"
    if not parts.stub.is_file():
        return f"Triton's wheel has no Python backend for Python {version}"
    if find_library(f"python{version}") is None:
        return (
            f"Triton's Python backend needs libpython{version} (apt-get install libpython{version})"
        )
    return ""


class TritonServer:
    """The server with one model; use it in a `with`.

    Attributes:
        address: of gRPC.
        crashes: how often the process was found dead and started again.
    """

    def __init__(
        self,
        parts: Unpacked,
        package: Path,
        folder: Path,
        *,
        max_batch: int = 256,
        sequences: int = 2048,
        queue_delay_us: int = 0,
    ) -> None:
        """Prepares a model repository in `folder` from a Carousel package.

        Args:
            parts: the unpacked wheels.
            package: an LSTM with features in and a linear head, whose weights are taken.
            folder: an empty one.
            max_batch: most requests in one batch.
            sequences: most sequences at a time (`max_candidate_sequences`).
            queue_delay_us: how long a batch may wait to grow.
        """
        self._parts, self._folder = parts, folder
        manifest = read_manifest(package)
        self.name = manifest.name
        self.crashes = 0
        self._prefix = f"bench_triton_{secrets.token_hex(4)}_"
        self.address = ""
        self._http = ""
        self._process: subprocess.Popen[bytes] | None = None
        model = folder / "models" / self.name / "1"
        model.mkdir(parents=True)
        text = _CONFIG.format(
            name=self.name, max_batch=max_batch, width=manifest.input.raw_width,
            output=manifest.output_width, sequences=sequences, queue_delay_us=queue_delay_us,
            weights=(package / WEIGHTS).resolve(),
        )  # fmt: skip
        (model.parent / "config.pbtxt").write_text(text)
        # Triton starts the system's interpreter, which does not know our environment.
        packages = f"import sys\n\nsys.path.append({sysconfig.get_path('purelib')!r})\n"
        source = Path(__file__).with_name("model.py").read_text()
        future = "from __future__ import annotations\n"
        (model / "model.py").write_text(source.replace(future, future + packages, 1))

    def __enter__(self) -> TritonServer:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def log(self) -> str:
        """What the server has said since it was started last."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Of the process that was started last; its interpreters are among its children."""
        assert self._process is not None, "it was started"
        return self._process.pid

    def alive(self) -> bool:
        """True if the process runs and says that it is ready."""
        if not self.running():
            return False
        try:
            with urllib.request.urlopen(f"{self._http}/v2/health/ready", timeout=10) as reply:
                return int(reply.status) == 200
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def measure(self, load: Load, tries: int = 8) -> LoadResult:
        """Measures a load; starts again, server and load, as often as the server crashes under it.

        Raises:
            LoadFailedError: it crashed every time, or the load failed while the server was well.
        """
        for number in range(1, tries + 1):
            try:
                return run_load(self._parts, self.address, load, self.running)
            except LoadFailedError:
                if not self.mend() or number == tries:
                    raise
        raise AssertionError("unreachable")

    def running(self) -> bool:
        """True while the process has not ended."""
        return self._process is not None and self._process.poll() is None

    def mend(self) -> bool:
        """Starts the server again if it has crashed or hangs; True if it had to. Counts."""
        if self.alive():
            return False
        self.crashes += 1
        self._stop()
        self._start()
        return True

    @property
    def _log(self) -> Path:
        return self._folder / "triton.log"

    def _start(self) -> None:
        grpc, http = _free_ports(2)
        self.address, self._http = f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
        arguments = [
            str(self._parts.server),
            f"--model-repository={self._folder / 'models'}",
            f"--backend-directory={self._parts.backends}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
            "--http-address=127.0.0.1", f"--http-port={http}",
            "--allow-metrics=false", "--exit-timeout-secs=3",
        ]  # fmt: skip
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self._parts.libraries)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                arguments, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
        deadline_s = time.monotonic() + _READY_WITHIN_S
        while not self.alive():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._stop()
                raise RuntimeError(f"Triton did not start:\n{self.log[-2000:]}")
            time.sleep(0.2)

    def _stop(self) -> None:
        """Ends the server and the interpreters that it has started."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_WITHIN_S)
        with contextlib.suppress(ProcessLookupError):  # the group holds what a crash leaves behind
            os.killpg(self._process.pid, 9)
        self._process.wait()
        self._process = None
        # A crash leaves the segments that server and model exchange tensors through.
        for segment in Path("/dev/shm").glob(f"{self._prefix}*"):
            segment.unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
