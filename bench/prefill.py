"""(g) Long prompts beside streams of tokens: how much later the streams' next tokens come.

A prompt runs in chunks of `chunk_steps` steps, one a tick, so a stream's next token should come at most
one chunk later than without it. The chunk's time is measured in the same run: a long prompt alone, divided by
its chunks.

What limits it now: while prompts run, nearly every tick holds a chunk, so the growth of the median is the
chunk itself, and it shows in every token and not in the last percent only. A smaller `chunk_steps` trades
that for more ticks a prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import carousel
from carousel_server.core.limits import EngineLimits

from . import models, processes
from .figures import Measured, Workload, percentile
from .models import GENERATIVE
from .report import Summary

PROMPTS = (32, 128, 512, 1024, 4096)
STREAMS = 8
TOKENS = 256
ALONE, CHUNK = "streams alone", "a prompt alone"
CHUNK_STEPS = EngineLimits().chunk_steps

Client = carousel.AsyncClient


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """The streams alone, a long prompt alone, and the streams beside prompts of each length."""
    models.make(folder, options.dtype)
    address = stack.enter_context(
        # Each token in a message of its own: gaps between messages are to be those between tokens.
        processes.carousel_server(folder, device, chunk_steps=CHUNK_STEPS, max_token_delay_s=0)
    )

    def beside(prompt: int) -> Callable[[], Measured]:
        return lambda: runner.run(_streams(address, prompt, options.seconds))

    return [
        Workload(CHUNK, lambda: runner.run(_chunk(address, options.seconds))),
        Workload(ALONE, beside(0)),
        *(Workload(_beside(prompt), beside(prompt)) for prompt in PROMPTS),
    ]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """What each prompt adds, in chunks: at most 1."""
    chunk_ms = figures[CHUNK]["chunk_ms"]["median"]
    alone = figures[ALONE]
    for prompt in PROMPTS:
        for share in ("p50", "p99"):
            name = f"inter_token_{share}_ms"
            more_ms = figures[_beside(prompt)][name]["median"] - alone[name]["median"]
            yield f"{prompt} tokens: growth of {share} over a chunk's time", more_ms / chunk_ms


def _beside(prompt: int) -> str:
    return f"streams beside prompts of {prompt} tokens"


async def _chunk(address: str, seconds: float) -> Measured:
    """The time of one chunk: that of the longest prompt, over its chunks."""
    times: list[float] = []
    async with Client(address) as client:
        end_s = time.perf_counter() + seconds
        while not times or time.perf_counter() < end_s:
            times.append(await _prompt(client, PROMPTS[-1]))
    chunks = PROMPTS[-1] / CHUNK_STEPS
    return {"chunk_ms": percentile(times, 0.5) * 1e3 / chunks}


async def _streams(address: str, prompt: int, seconds: float) -> Measured:
    """Gaps between the tokens of the streams, while prompts of `prompt` tokens follow each other."""
    gaps: list[float] = []
    prompts: list[float] = []
    async with Client(address) as client, Client(address) as other:
        end_s = time.perf_counter() + seconds
        streams = [asyncio.create_task(_stream(client, end_s, gaps)) for _ in range(STREAMS)]
        prefill = asyncio.create_task(_prefill(other, prompt, prompts))
        await asyncio.gather(*streams)
        prefill.cancel()
        with suppress(asyncio.CancelledError):
            await prefill
    measured = {f"inter_token_{name}_ms": percentile(gaps, share) * 1e3 for name, share in _SHARES}
    if prompts:
        measured["prompt_p50_ms"] = percentile(prompts, 0.5) * 1e3
    return measured


_SHARES = (("p50", 0.5), ("p99", 0.99))


async def _stream(client: Client, end_s: float, gaps: list[float]) -> None:
    """One text after the other; the wait for a first token is no gap."""
    while time.perf_counter() < end_s:
        last_s = 0.0
        async for _ in client.generate(GENERATIVE, "def ", max_tokens=TOKENS):
            now_s = time.perf_counter()
            if last_s:
                gaps.append(now_s - last_s)
            last_s = now_s


async def _prefill(client: Client, prompt: int, times: list[float]) -> None:
    """One prompt after the other, until cancelled."""
    while prompt:
        times.append(await _prompt(client, prompt))


async def _prompt(client: Client, prompt: int) -> float:
    """Seconds until the first token behind a prompt."""
    began_s = time.perf_counter()
    async for _ in client.generate(GENERATIVE, "x" * prompt, max_tokens=1):
        pass
    return time.perf_counter() - began_s
