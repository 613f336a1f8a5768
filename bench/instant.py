"""`python -m bench.instant TRANSPORT`: the real doors in front of an engine that answers at once.

Prints the port of gRPC, or of HTTP where TRANSPORT is http. It shows what a door alone costs, its protocol,
limits and errors, without a model and without a tick.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import (
    Ack,
    Bind,
    Close,
    Command,
    EnginePort,
    Fork,
    Import,
    Infer,
    Open,
    Opened,
    Place,
    StepBlock,
    Unbind,
    ask,
)
from carousel_server.core.quotas import Quotas
from carousel_server.core.sinks import StepSink
from carousel_server.core.types import (
    Durability,
    Int64s,
    ModelView,
    OpenSpec,
    Phase,
    SessionRef,
    SessionView,
    TensorField,
)
from carousel_server.metrics import Metrics
from carousel_server.process.doors import Doors
from carousel_server.wire import WireOptions

from .loops import run
from .models import STEPPED, WIDTH

_ROWS = TensorField("x", "<f4", (WIDTH,)), TensorField("y", "<f4", (WIDTH,))
_MODEL = ModelView(
    name=STEPPED, fingerprint="", description="gives back what it gets", cell="custom", layers=0,
    hidden=0, input=_ROWS[0], outputs=_ROWS[1:], causal=True, vocabulary=0,
    generative=False, tokenizer="", labels=(), parameters=0, state_bytes=0, compute_dtype="float32",
    window_steps=128, max_sequence_steps=1 << 16,
)  # fmt: skip


class InstantEngine:
    """An EnginePort whose outputs are its inputs. It has sessions, and nothing else of them."""

    model = _MODEL
    healthy = True

    def __init__(self) -> None:
        self._rows = itertools.count(1)

    def submit(self, command: Command) -> None:
        """Runs a command now."""
        match command:
            case Open():
                ref = SessionRef(next(self._rows), 1)
                command.reply.set_result((ref, _view(command.spec.session_id or f"s-{ref.row}")))
            case Bind():
                command.reply.set_result(_view(f"s-{command.ref.row}"))
            case Close():
                command.reply.set_result(_view(f"s-{command.ref.row}"))
            case StepBlock():
                self.submit_steps([command])
            case Infer():
                rows = np.frombuffer(command.inputs, np.uint8)
                command.reply.set_result(rows.reshape(-1, self.model.input_row_bytes))
            case Ack() | Unbind():
                pass
            case _:
                raise CarouselError("METHOD_NOT_OFFERED", f"no {type(command).__name__} here")

    def submit_steps(self, blocks: Sequence[StepBlock]) -> None:
        """Answers all blocks, with one call of each sink as an engine does."""
        of_sink: dict[tuple[int, int], list[StepBlock]] = {}
        for block in blocks:
            of_sink.setdefault((id(block.sink), block.steps), []).append(block)
        for alike in of_sink.values():
            _answer(alike[0].sink, alike)

    async def encode_text(self, text: str) -> Int64s:
        """There is no text."""
        raise CarouselError("TEXT_UNAVAILABLE", f"no tokenizer for {text[:20]!r}")

    async def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        """There is no text."""
        return await self.encode_text(text), 0


def _answer(sink: StepSink, blocks: Sequence[StepBlock]) -> None:
    tags = np.asarray([tag for block in blocks for tag in block.tags], np.int64)
    firsts = np.asarray([seq for block in blocks for seq in block.first_seqs], np.int64)
    data = b"".join(block.inputs for block in blocks)
    sink.outputs(
        tags, firsts, blocks[0].steps, np.frombuffer(data, np.uint8).reshape(len(tags), -1)
    )


def _view(session_id: str) -> SessionView:
    return SessionView(
        id=session_id, model=STEPPED, phase=Phase.RESIDENT, applied=0, ack=0, durable=0, epoch=1,
        durability=Durability.NONE, idle_ttl_s=60.0, created_at_unix_s=0.0, fingerprint="",
        window_steps=_MODEL.window_steps, seed=0,
    )  # fmt: skip


class InstantCatalog:
    """A CatalogPort with one engine and no store."""

    store_fault = None

    def __init__(self) -> None:
        self.quotas = Quotas()
        self._engine: EnginePort = InstantEngine()

    def engines(self) -> Sequence[EnginePort]:
        """The one."""
        return [self._engine]

    def engine(self, model: str) -> EnginePort:
        """The one, by its name."""
        if model != STEPPED:
            raise CarouselError("MODEL_NOT_FOUND", f"no model {model!r}")
        return self._engine

    def locate(self, tenant: str, session_id: str) -> Place | None:
        """Nothing: no session is looked for."""
        return None

    def resume(
        self, tenant: str, session_id: str, epoch_floor: int = 0, take_over: bool = False
    ) -> Future[Place]:
        """Nothing: there is no store."""
        return _not_found(session_id)

    def open(self, engine: EnginePort, spec: OpenSpec) -> Opened:
        """See `CatalogPort.open`."""
        return ask(engine, Open(spec))

    def copy(self, engine: EnginePort, command: Import | Fork) -> Opened:
        """Nothing."""
        return _not_found("")

    def peek(self, tenant: str, session_id: str) -> Future[SessionView]:
        """Nothing."""
        return _not_found(session_id)

    def discard(self, tenant: str, session_id: str) -> Future[SessionView]:
        """Nothing."""
        return _not_found(session_id)

    def stored(self, tenant: str, after: str, limit: int, model: str) -> Future[list[SessionView]]:
        """Nothing."""
        nothing: Future[list[SessionView]] = Future()
        nothing.set_result([])
        return nothing


def _not_found(session_id: str) -> Future[Any]:
    missing: Future[Any] = Future()
    missing.set_exception(CarouselError("SESSION_NOT_FOUND", f"no session {session_id!r}"))
    return missing


async def main() -> None:
    """Serves on a free port until killed."""
    http = sys.argv[1] == "http"
    options = WireOptions(
        transport="python" if http else sys.argv[1],
        max_streams=4096,
        http_port=0 if http else None,
    )
    doors = Doors(InstantCatalog(), options, Metrics().wire())
    await doors.start()
    print(json.dumps({"port": doors.ports.http if http else doors.ports.grpc}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main())
