"""Generations: sessions that feed themselves. Prompt in chunks, then one drawn token per tick."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from carousel_models.tokenizer import TextDecoder, Tokenizer
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import EngineMetrics, Generate, TokenSink
from carousel_server.core.types import (
    FinishReason,
    GeneratedToken,
    GenerationEnd,
    Int32s,
    Int64s,
    SessionRef,
)
from carousel_server.sessions import SessionTable

from .philox import uniform
from .sampler import SamplingRows, log_probabilities, sample
from .stops import StopTexts

RECENT_TOKENS = 64
"""How many tokens back the repetition penalty looks."""


@dataclass(slots=True)
class _Run:
    """One generation on its way."""

    command: Generate
    queue: Int32s  # tokens to feed before the first draw
    decoder: TextDecoder | None
    stops: StopTexts
    started_s: float
    prompt_tokens: int
    fed: int = 0  # how many of `queue` were fed
    drawn: int = 0
    finished: bool = False  # its sink has heard the end
    last_token_s: float = 0.0

    @property
    def ref(self) -> SessionRef:
        return self.command.ref

    @property
    def sink(self) -> TokenSink:
        return self.command.sink


@dataclass(slots=True)
class _Times:
    """Latencies of one tick's tokens, for the metrics."""

    first: list[float] = field(default_factory=list)
    inter: list[float] = field(default_factory=list)


class Generations:
    """All generations of an engine. Used on the engine's thread only.

    Settings that the sampler needs stand in arrays by row; everything that is touched once per token
    and generation stands in a `_Run`.
    """

    def __init__(
        self, table: SessionTable, tokenizer: Tokenizer | None, metrics: EngineMetrics
    ) -> None:
        self._table = table
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._runs: dict[int, _Run] = {}
        slots = table.slots
        self._temperature = np.ones(slots)
        self._top_k: Int64s = np.zeros(slots, np.int64)
        self._top_p = np.ones(slots)
        self._penalty = np.ones(slots)
        self._seed = np.zeros(slots, np.uint64)
        # Token drawn last but not fed yet, -1 if none: where a later generation goes on.
        self.next_token = np.full(slots, -1, np.int32)
        # The last tokens of each session, newest last, -1 where there is none.
        self.recent = np.full((slots, RECENT_TOKENS), -1, np.int32)

    def __len__(self) -> int:
        """Number of generations running."""
        return len(self._runs)

    def reset(self, row: int) -> None:
        """Forgets a row's tokens, when a session begins."""
        self.next_token[row] = -1
        self.recent[row] = -1

    def restore(self, row: int, next_token: int, recent: tuple[int, ...]) -> None:
        """Sets a row's tokens as a snapshot has them."""
        self.reset(row)
        self.next_token[row] = next_token
        self.remember(np.asarray([row]), np.asarray([recent], np.int32))

    def remember(self, rows: Int64s, tokens: Int32s) -> None:
        """Adds int32[n, k] tokens that were fed to the last ones of n sessions."""
        recent = np.concatenate((self.recent[rows], tokens), axis=1)
        self.recent[rows] = recent[:, -RECENT_TOKENS:]

    def fed(self, rows: Int64s, tokens: Int32s) -> None:
        """The client itself fed int32[n, k] tokens to n sessions: it decides what comes next."""
        self.next_token[rows] = -1
        self.remember(rows, tokens)

    def start(self, command: Generate, now: float) -> None:
        """Begins a generation on an idle session. Outputs of steps before it count as received.

        Raises:
            CarouselError: FIELD_INVALID without anything to feed; TEXT_UNAVAILABLE.
        """
        row, spec = command.ref.row, command.spec
        prompt = self._prompt_ids(spec.prompt)
        carry = self.next_token[row : row + 1]
        queue = np.concatenate((carry[carry >= 0], prompt))
        if not len(queue):
            raise CarouselError(
                "FIELD_INVALID",
                "a first generation needs a prompt of at least one token",
                field="prompt",
            )
        sampling = spec.sampling
        self._temperature[row] = sampling.temperature
        self._top_k[row] = sampling.top_k
        self._top_p[row] = sampling.top_p
        self._penalty[row] = sampling.repetition_penalty
        self._seed[row] = self._table.seed[row] if sampling.seed is None else sampling.seed
        self._table.ack[row] = self._table.applied[row]
        self._table.generating[row] = True
        self._table.pending[row] = len(queue)
        self._runs[row] = _Run(
            command=command,
            queue=queue,
            decoder=self._tokenizer.decoder() if self._tokenizer else None,
            stops=StopTexts(spec.stop),
            started_s=now,
            prompt_tokens=len(queue),
        )

    def inputs(self, row: int, steps: int) -> Int32s:
        """The next tokens to feed, int32[steps]; after the prompt, the token drawn last."""
        run = self._runs[row]
        return run.queue[run.fed : run.fed + steps]

    def late(self, now: float) -> list[int]:
        """Rows whose generation is past its deadline."""
        return [row for row, run in self._runs.items() if run.command.spec.deadline_s <= now]

    def advance(self, rows: Int64s, counts: Int64s, raw: Tensor, now: float) -> list[int]:
        """After a tick: moves prompts on, draws where a prompt is used up, hands tokens out.

        Args:
            rows: int64[n], generating rows of the batch; their cursors have been moved.
            counts: int64[n], steps that each ran.
            raw: float32[n, vocabulary], logits of each row's last step.
            now: the tick's end.

        Returns:
            Rows whose generation has ended.
        """
        drawing = []
        for i, (row, count) in enumerate(zip(rows.tolist(), counts.tolist(), strict=True)):
            run = self._runs[row]
            self.remember(rows[i : i + 1], run.queue[None, run.fed : run.fed + count])
            run.fed += count
            self._table.pending[row] = len(run.queue) - run.fed
            if run.fed == len(run.queue):
                drawing.append(i)
        if not drawing:
            return []
        chosen = np.asarray(drawing)
        return self._draw(rows[chosen], raw[torch.from_numpy(chosen)], now)

    def end(self, row: int, error: CarouselError | None) -> Generate:
        """Takes a generation off its session; with an error, tells its sink."""
        run = self._runs.pop(row)
        table = self._table
        table.generating[row] = False
        table.pending[row] = 0
        if error is not None and not run.finished:
            run.sink.failed(error)
        return run.command

    def rows(self) -> list[int]:
        """Rows that are generating."""
        return list(self._runs)

    def is_run_by(self, row: int, sink: TokenSink) -> bool:
        """True if the row's generation belongs to `sink`."""
        return row in self._runs and self._runs[row].sink is sink

    def check_integrity(self) -> None:
        """Asserts that the table and the generations agree on who is generating."""
        assert set(np.flatnonzero(self._table.generating).tolist()) == set(self._runs)
        for row, run in self._runs.items():
            assert self._table.pending[row] == len(run.queue) - run.fed > 0, "nothing to feed"

    # -- drawing

    def _draw(self, rows: Int64s, logits: Tensor, now: float) -> list[int]:
        runs = [self._runs[row] for row in rows.tolist()]
        seqs = self._table.applied[rows]
        tokens = sample(
            logits,
            SamplingRows(
                temperature=self._temperature[rows],
                top_k=self._top_k[rows],
                top_p=self._top_p[rows],
                penalty=self._penalty[rows],
                uniform=uniform(self._seed[rows], seqs.astype(np.uint64)),
                recent=self.recent[rows],
            ),
        )
        details = self._details(runs, logits, tokens)
        ids = tokens.cpu().numpy().astype(np.int32)
        self.next_token[rows] = ids
        times, ended = _Times(), []
        for i, (row, run) in enumerate(zip(rows.tolist(), runs, strict=True)):
            if self._hand_out(row, run, int(ids[i]), int(seqs[i]), details[i], times, now):
                ended.append(row)
        self._metrics.tokens(len(runs), np.asarray(times.first), np.asarray(times.inter))
        return ended

    def _hand_out(
        self,
        row: int,
        run: _Run,
        token_id: int,
        seq: int,
        details: _Details,
        times: _Times,
        now: float,
    ) -> bool:
        """Gives one drawn token to its sink; returns True if the generation has ended with it."""
        run.drawn += 1
        if run.drawn == 1:
            times.first.append(now - run.started_s)
        else:
            times.inter.append(now - run.last_token_s)
        run.last_token_s = now
        run.queue, run.fed = self.next_token[row : row + 1].copy(), 0
        self._table.pending[row] = 1
        spec = run.command.spec
        if token_id in spec.stop_tokens:
            return self._finish(run, FinishReason.STOP, run.stops.flush())
        text = run.decoder.push(token_id) if run.decoder else ""
        shown, stopped = run.stops.push(GeneratedToken(token_id, text, seq, *details))
        if stopped:
            return self._finish(run, FinishReason.STOP, shown, rest=False)
        if run.drawn >= spec.max_tokens:
            return self._finish(run, FinishReason.LENGTH, [*shown, *run.stops.flush()])
        if shown:
            run.sink.tokens(shown)
        return False

    def _finish(
        self, run: _Run, reason: FinishReason, shown: list[GeneratedToken], *, rest: bool = True
    ) -> bool:
        run.finished = True
        if shown:
            run.sink.tokens(shown)
        run.sink.finished(
            GenerationEnd(
                reason=reason,
                prompt_tokens=run.prompt_tokens,
                generated_tokens=run.drawn,
                applied=int(self._table.applied[run.ref.row]),
                text=run.decoder.flush() if run.decoder and rest else "",
            )
        )
        return True

    @staticmethod
    def _details(runs: list[_Run], logits: Tensor, tokens: Tensor) -> list[_Details]:
        """Log-probability and alternatives for those who asked."""
        asked = [run.command.spec.logprobs for run in runs]
        most = max((k for k in asked if k is not None), default=None)
        if most is None:
            return [(None, ())] * len(runs)
        drawn, values, ids = (t.tolist() for t in log_probabilities(logits, tokens, most))
        return [
            (None, ())
            if k is None
            else (drawn[i], tuple(zip(ids[i][:k], values[i][:k], strict=True)))
            for i, k in enumerate(asked)
        ]

    def _prompt_ids(self, prompt: str | Int32s | None) -> Int32s:
        if prompt is None:
            return np.empty(0, np.int32)
        if isinstance(prompt, str):
            assert self._tokenizer is not None, "the wire turns text away without a tokenizer"
            return np.asarray(self._tokenizer.encode(prompt), np.int32)
        return prompt


_Details = tuple[float | None, tuple[tuple[int, float], ...]]
"""Log-probability of a drawn token, and its alternatives."""
