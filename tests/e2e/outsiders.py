"""Replicas on one store, and a client without the SDK: unary calls that name their session to a proxy."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray
from support.proxies import SESSION_HEADER
from support.server import LSTM, ServerProcess

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as pb_grpc

Rows = NDArray[np.float32]

AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
"""How a call ends that is refused for now, or whose replica ends or dies (docs/guides/proxies.md)."""

PATIENCE_S = 60.0
"""How long a client repeats a call that is refused for now."""


class Replicas:
    """Servers on one store, each with a name that it keeps. Use as a context manager.

    They are strict, so that outputs can be compared to the bit.
    """

    def __init__(self, models: Path, store: str, **settings: object) -> None:
        """`settings` as of `ServerProcess`."""
        self._models = models
        self._settings: dict[str, Any] = {
            "store": store, "strict": True, "slots": 256, "lease_ttl_s": 3, "park_after_s": 1,
            **settings,
        }  # fmt: skip
        self._living: dict[str, ServerProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        servers = self.living
        for name in list(self._living):
            self.kill(name)
        if kind is None:
            for server in servers:
                assert "Traceback" not in server.text, server.text

    def start(self, *names: str) -> None:
        """Starts replicas side by side. One that comes again has other ports, as a new container would."""
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            list(pool.map(self._start, names))

    def _start(self, name: str) -> None:
        server = ServerProcess(self._models, replica=name, **self._settings)
        self._living[name] = server.__enter__()  # also if another one does not start

    def restore(self, *names: str) -> None:
        """Kills and starts replicas until these live, and no other."""
        for name in self._living.keys() - set(names):
            self.kill(name)
        self.start(*(name for name in names if name not in self._living))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        server = self._living.pop(name)
        server.signal(signal.SIGKILL)
        server.wait()

    def drain(self, name: str) -> None:
        """SIGTERM, and the end in good order."""
        server = self._living.pop(name)
        assert server.stop() == 0, server.text
        assert "Traceback" not in server.text, server.text

    def __getitem__(self, name: str) -> ServerProcess:
        return self._living[name]

    @property
    def living(self) -> list[ServerProcess]:
        """The servers that run now, in the order of their starts."""
        return list(self._living.values())


class Outsider:
    """One session by unary calls, each with its id in the metadata. Its steps have numbers.

    A call that is refused for now, or cut, is made again: the same step under the same number runs once.

    Attributes:
        refusals: reasons of the refusals so far, and how often each came.
    """

    def __init__(self, target: str, session_id: str, *, header: bool = True) -> None:
        self.id = session_id
        self.refusals: Counter[str] = Counter()
        self._metadata = ((SESSION_HEADER, session_id),) if header else ()
        self._channel = grpc.insecure_channel(
            target, options=(("grpc.max_reconnect_backoff_ms", 500),)
        )
        self._sessions = pb_grpc.SessionServiceStub(self._channel)
        self._inference = pb_grpc.InferenceServiceStub(self._channel)
        self._seq = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def open(self, durability: pb.Durability = pb.DURABILITY_SYNC) -> None:
        """Opens the session; finds it if an earlier attempt did."""
        self._call(
            self._sessions.OpenSession,
            pb.OpenSessionRequest(model=LSTM, session_id=self.id, durability=durability),
        )

    def step(self, row: Rows) -> Rows:
        """The output of the next step; float32[width]."""
        self._seq += 1
        asked = pb.StepRequest(
            session_id=self.id, first_seq=self._seq, inputs=row.tobytes(), ack=self._seq - 1
        )
        return np.frombuffer(self._call(self._inference.Step, asked).outputs, np.float32)

    def run(self, rows: Sequence[Rows]) -> Rows:
        """The outputs of some steps; float32[n, width]."""
        return np.stack([self.step(row) for row in rows])

    def _call(self, method: Any, request: Any) -> Any:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                return method(request, metadata=self._metadata, timeout=PATIENCE_S)
            except grpc.RpcError as error:
                reason = reason_of(error)
                self.refusals[reason] += 1
                if error.code() not in AGAIN or time.monotonic() > give_up:
                    raise
                time.sleep(0.05)


def reason_of(error: Any) -> str:
    """The reason of the error registry, or the status where the error is the proxy's."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return str(error.code().name)


def outputs_of(target: str, rows: Rows) -> Rows:
    """What a session gives to which nothing happens; float32[n, width]."""
    with Outsider(target, f"quiet-{time.monotonic_ns()}") as quiet:
        quiet.open(pb.DURABILITY_NONE)
        return quiet.run(list(rows))
