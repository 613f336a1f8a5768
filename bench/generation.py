"""(c) Generation: 1 to 1,024 streams through the SDK, beside the engine without gRPC (D3)."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from carousel_models import RecurrentModel, load
from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import Generate, Open
from carousel_server.core.types import GeneratedToken, GenerateSpec, OpenSpec, SessionRef
from carousel_server.engine import Engine, Environment
from carousel_server.metrics import Metrics
from carousel_server.residency.directory import Directory

from . import models, processes, served
from .figures import Measured, Workload
from .models import GENERATIVE
from .report import Summary

STREAMS = (1, 16, 64, 256, 1024)
_PROMPT = "def "
_OURS = ("carousel", served.FRONT_END)


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Engine and server, in one process and in two, with each number of streams, one after the other."""
    models.make(folder, options.dtype)
    model = load(folder / GENERATIVE, device=device, kernel=options.kernel)
    there = []
    for who, front_ends in ((_OURS[0], 0), (_OURS[1], 1)):
        server = processes.carousel_server(
            folder, device, kernel=options.kernel, front_ends=front_ends
        )
        given = (stack.enter_context(server), runner.run, options.seconds, STREAMS, who)
        there.append(served.generation_workloads(*given))
    work = []
    for streams, *of_servers in zip(STREAMS, *there, strict=True):
        alone = _Generating(model, streams, options.seconds)
        work += [Workload(_name("engine", streams), alone), *of_servers]
    return work


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Served tokens per second over the engine's alone."""
    for streams in STREAMS:
        alone = figures[_name("engine", streams)]["tokens_per_s"]["median"]
        for who in _OURS:
            if (there := figures.get(_name(who, streams))) is not None:
                ratio = there["tokens_per_s"]["median"] / alone
                yield f"{streams} streams: {who} over the engine alone (tokens per second)", ratio


def _name(who: str, streams: int) -> str:
    return f"{who}: generation, {streams} streams"


class _Tokens:
    """A sink that counts, and remembers that its generation has ended."""

    def __init__(self) -> None:
        self.count = 0
        self.ended = True

    def tokens(self, tokens: Sequence[GeneratedToken]) -> None:
        self.count += len(tokens)

    def finished(self, end: Any) -> None:
        self.ended = True

    def failed(self, error: Exception) -> None:
        raise error


class _Generating:
    """An engine whose every session generates, and begins anew when it has ended."""

    def __init__(self, model: RecurrentModel, streams: int, seconds: float) -> None:
        self._streams, self._seconds = streams, seconds
        metrics = Metrics()

        def measured(view: Any) -> Any:
            return metrics.engine(view, slots=streams)

        limits = EngineLimits(slots=streams)
        self._engine = Engine(model, limits, Environment(Directory(), measured))
        self._sinks = [_Tokens() for _ in range(streams)]
        self._refs = self._open()

    @torch.inference_mode()
    def _open(self) -> list[SessionRef]:
        opened = [Open(OpenSpec("bench", "")) for _ in range(self._streams)]
        for command in opened:
            self._engine.submit(command)
        self._engine.tick()
        return [command.reply.result()[0] for command in opened]

    @torch.inference_mode()
    def __call__(self) -> Measured:
        before = sum(sink.count for sink in self._sinks)
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < self._seconds:
            for ref, sink in zip(self._refs, self._sinks, strict=True):
                if sink.ended:
                    sink.ended = False
                    self._engine.submit(Generate(ref, GenerateSpec(_PROMPT, served.TOKENS), sink))
            self._engine.tick()
        return {"tokens_per_s": (sum(sink.count for sink in self._sinks) - before) / took}
