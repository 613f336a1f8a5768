"""An engine with a store, both turned by hand, and servers that die on one store."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np

from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import Bind, Generate
from carousel_server.core.quotas import Quotas
from carousel_server.core.types import (
    Durability,
    GenerateSpec,
    OpenSpec,
    SamplingSpec,
    SessionRef,
    SessionView,
)
from carousel_server.engine import Engine, Environment
from carousel_server.residency.activation import Activation
from carousel_server.residency.asking import Answering, Asking
from carousel_server.residency.catalog import Catalog
from carousel_server.residency.directory import Directory
from carousel_server.store.memory import MemoryMedium, MemoryStore
from tests.support.manual_store import ManualStore

from .fakes import CountingMetrics, RecordingSink, RecordingTokens, Rig, block


class DurableRig(Rig):
    """A Rig whose sessions a store keeps. `restart` is a kill -9 and a new process on the same medium."""

    def __init__(
        self,
        model: Any = None,
        *,
        medium: MemoryMedium | None = None,
        replica: str = "here",
        quotas: Quotas | None = None,
        **limits: Any,
    ) -> None:
        self.medium = medium or MemoryMedium()
        self.now = 1000.0
        self.store = ManualStore(
            MemoryStore(self.medium, owner=replica, now=lambda: 1e9 + self.now)
        )
        self._given = {"slots": 8, "max_batch": 8, "chunk_steps": 4, "window_steps": 8} | limits
        self.metrics = CountingMetrics()
        super().__init__(model, **self._given)
        self.directory = Directory()
        self.engine = Engine(
            self.model,
            EngineLimits(**self._given),
            Environment(
                self.directory,
                lambda _view: self.metrics,
                self.store,
                quotas or Quotas(),
                clock=lambda: self.now,
            ),
        )
        engines = {self.engine.model.name: self.engine}
        activation = Activation(
            self.directory,
            engines,
            self.store,
            Asking(self.store, 1.0, lambda: self.now),
            default_idle_ttl_s=3600.0,
            max_idle_ttl_s=86_400.0,
        )
        self.catalog = Catalog(self.directory, [self.engine], self.store, activation)
        self.answering = Answering(self.directory, engines, self.store)

    def restart(self, **limits: Any) -> DurableRig:
        """What a new process finds."""
        self.store.refuse()
        again = DurableRig(self.model, medium=self.medium, **(self._given | limits))
        again.now = self.now
        return again

    def until(self, future: Future[Any]) -> Any:
        """Turns engine and store until a future is settled."""
        for _ in range(100):
            if future.done():
                return future.result(timeout=0)
            self.turn()
        raise AssertionError("nobody answers")

    def turn(self) -> None:
        """One tick, and all that the store has to do."""
        self.tick()
        self.store.run()

    def rest(self) -> None:
        """Turns until engine and store have nothing to do and the store has everything."""
        for _ in range(1000):
            self.turn()
            if not self.engine.pending() and not self.store.waiting:
                return
            self.now += 0.01
        raise AssertionError("no rest")

    def open_durable(
        self, session_id: str = "s", durability: Durability = Durability.ASYNC, **spec: Any
    ) -> SessionRef:
        spec = {"tenant": "t", "session_id": session_id, "durability": durability} | spec
        ref: SessionRef = self.until(self.catalog.open(self.engine, OpenSpec(**spec)))[0]
        return ref

    def resume(self, session_id: str = "s", epoch_floor: int = 0, tenant: str = "t") -> SessionRef:
        return self.until(self.catalog.resume(tenant, session_id, epoch_floor))[1]

    def attach(
        self, ref: SessionRef, sink: RecordingSink, tag: int = 1, **more: Any
    ) -> SessionView:
        command = Bind(ref, sink, tag, **more)
        self.engine.submit(command)
        view: SessionView = self.until(command.reply)
        return view

    def send(
        self, sink: RecordingSink, ref: SessionRef, first: int, *values: float, **m: Any
    ) -> None:
        self.engine.submit(block(sink, ref, first, *values, **m))

    def generate(
        self, ref: SessionRef, prompt: list[int] | None, asked_s: float = 0.0, **spec: Any
    ) -> RecordingTokens:
        sink = RecordingTokens()
        tokens = None if prompt is None else np.asarray(prompt, np.int32)
        sampling = spec.pop("sampling", SamplingSpec(seed=7))
        asked = GenerateSpec(tokens, sampling=sampling, **spec)
        self.engine.submit(Generate(ref, asked, sink, asked_s=asked_s))
        return sink
