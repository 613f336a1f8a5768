"""Generations: sessions that feed themselves. Prompt in chunks, then one drawn token per tick.

What was drawn is kept until the session goes on with something else, here and in snapshots. So the same
request can be asked again: it hears the same tokens from the first on, and the generation goes on where it
stopped, be it cancelled, cut off with its stream, or restored from the store in another process.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from carousel_models.tokenizer import CONTEXT_TOKENS, Tokenizer
from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import EngineMetrics
from carousel_server.core.ports import Generate
from carousel_server.core.sinks import TokenSink
from carousel_server.core.types import (
    GenerateSpec,
    GenerationEnd,
    Int32s,
    Int64s,
)
from carousel_server.rows.ledger import Ledger
from carousel_server.rows.snapshot import KeptGeneration, Snapshot
from carousel_server.rows.table import SessionTable

from .sampling import Sampling, details_of
from .telling import Details, Kept, Teller, digest_of
from .texts import GeneratedText

RECENT_TOKENS = 64
"""How many tokens back the repetition penalty looks."""


@dataclass(slots=True)
class _Run:
    """One generation on its way."""

    command: Generate
    kept: Kept
    teller: Teller
    queue: Int32s  # tokens to feed before the next draw
    text: GeneratedText
    started_s: float
    fed: int = 0  # how many of `queue` were fed
    last_token_s: float = 0.0


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
        self,
        table: SessionTable,
        ledger: Ledger,
        tokenizer: Tokenizer | None,
        metrics: EngineMetrics,
        *,
        generative: bool,
        eos: Collection[int] = (),
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._eos = frozenset(eos)
        self._runs: dict[int, _Run] = {}
        # The last generation of each row, running or over, while it can be asked for again.
        self._kept: dict[int, Kept] = {}
        # Who still hears of each row's last generation; longer than it runs if the end must wait.
        self._tellers: dict[int, Teller] = {}
        slots = table.slots
        # Of a model that generates no text, no row draws.
        self._sampling = Sampling(slots if generative else 0)
        # Token drawn last but not fed yet, -1 if none: where a later generation goes on.
        self.next_token = np.full(slots, -1, np.int32)
        # The last tokens of each session, newest last, -1 where there is none.
        self.recent = np.full((slots, RECENT_TOKENS if generative else 0), -1, np.int32)

    def __len__(self) -> int:
        """Number of generations running."""
        return len(self._runs)

    def reset(self, row: int) -> None:
        """Forgets a row's tokens, when a session begins."""
        self.next_token[row] = -1
        self.recent[row] = -1
        self._kept.pop(row, None)

    def restore(self, row: int, snapshot: Snapshot) -> None:
        """Sets a row's tokens, and its last generation, as a snapshot has them."""
        self.reset(row)
        self.next_token[row] = snapshot.next_token
        self.remember(np.asarray([row]), np.asarray([snapshot.recent_tokens], np.int32))
        if snapshot.generation is not None:
            self._kept[row] = Kept.of(snapshot.generation)

    def kept(self, row: int) -> KeptGeneration | None:
        """A row's last generation, for its snapshot."""
        kept = self._kept.get(row)
        return None if kept is None else kept.to_snapshot()

    def remember(self, rows: Int64s, tokens: Int32s) -> None:
        """Adds int32[n, k] tokens that were fed to the last ones of n sessions."""
        recent = np.concatenate((self.recent[rows], tokens), axis=1)
        self.recent[rows] = recent[:, recent.shape[1] - self.recent.shape[1] :]

    def fed(self, rows: Int64s, tokens: Int32s) -> None:
        """The client itself fed int32[n, k] tokens to n sessions: it decides what comes next."""
        self.next_token[rows] = -1
        self.remember(rows, tokens)
        if self._kept:
            for row in rows.tolist():
                self._kept.pop(row, None)

    def continues(self, row: int, spec: GenerateSpec) -> bool:
        """True if a request asks for the row's last generation again.

        Raises:
            CarouselError: SEQUENCE_REUSED: it has that one's first_seq, but is another request.
        """
        kept = self._kept.get(row)
        if kept is None or spec.first_seq != kept.base + 1:
            return False
        if digest_of(spec, _prompt_ids(spec, kept.base)) != kept.digest:
            if int(self._table.applied[row]) == kept.base:
                return False  # it has not run a step, so nothing is reused
            raise CarouselError(
                "SEQUENCE_REUSED",
                f"another generation ran from step {spec.first_seq} on",
                seq=spec.first_seq,
            )
        return True

    def start(self, command: Generate, now: float) -> None:
        """Begins a generation on an idle session, or goes on with its last one if asked for that again.

        Outputs of steps before it count as received.

        Raises:
            CarouselError: FIELD_INVALID without anything to feed; TEXT_UNAVAILABLE.
        """
        row, spec = command.ref.row, command.spec
        again = self.continues(row, spec)
        base = self._kept[row].base if again else int(self._table.applied[row])
        prompt = _prompt_ids(spec, base)
        carry = self._kept[row].carry if again else int(self.next_token[row])
        queue = np.concatenate((np.full(int(carry >= 0), carry, np.int32), prompt))
        if not len(queue):
            raise CarouselError(
                "FIELD_INVALID",
                "a first generation needs a prompt of at least one token",
                field="prompt",
            )
        if not again:
            digest, context = digest_of(spec, prompt), self._fed_last(row)
            self._kept[row] = Kept(base, carry, len(queue), digest, spec.logprobs or 0, context)
        elif not self._kept[row].fits(len(queue), spec.logprobs or 0):
            raise CarouselError("SEQUENCE_REUSED", "the session's snapshot is of another request")
        self._sampling.set(row, spec.sampling, int(self._table.seed[row]))
        tracked, sync = bool(self._table.tracked[row]), bool(self._table.sync[row])
        kept = self._kept[row]
        run = _Run(
            command=command,
            kept=kept,
            teller=Teller(command.sink, tokens_wait=sync, end_waits=tracked),
            queue=queue,
            text=GeneratedText(
                self._tokenizer,
                self._eos,
                spec,
                [*kept.context, *queue[-CONTEXT_TOKENS:].tolist()],
                ends_session=command.close_after,
            ),
            started_s=now,
        )
        self._replace_teller(row, run.teller)
        self._table.ack[row] = self._table.applied[row]
        if self._retell(row, run):
            return
        self._table.generating[row] = True
        self._table.pending[row] = len(run.queue) - run.fed
        self._table.ready.add_row(row)
        self._runs[row] = run

    def _fed_last(self, row: int) -> list[int]:
        """The last tokens that the row was fed, as many as a text that follows them depends on."""
        recent = self.recent[row, -CONTEXT_TOKENS:]
        last: list[int] = recent[recent >= 0].tolist()
        return last

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
        if error is not None and not run.teller.ending:
            run.teller.fail(error)
        if run.teller.done or not run.teller.ending:
            self._tellers.pop(row, None)
        return run.command

    def forget(self, row: int) -> None:
        """The row's last generation cannot be gone on with."""
        self._kept.pop(row, None)

    def leave(self, row: int, error: CarouselError) -> None:
        """The row's session leaves: whoever still hears of a generation is told `error`."""
        if row in self._runs:
            self.end(row, error)
        self._replace_teller(row, None, error)
        self._kept.pop(row, None)

    def give_up(self, error: CarouselError) -> None:
        """The engine ends: whoever still waits for the store's word is told so."""
        for row in list(self._tellers):
            self._replace_teller(row, None, error)

    def durable(self, row: int) -> None:
        """The store has confirmed steps of the row: tells what waited for it."""
        teller = self._tellers.get(row)
        if teller is not None:
            teller.let_out(int(self._table.durable[row]))
            if teller.done:
                del self._tellers[row]

    def rows(self) -> list[int]:
        """Rows that are generating."""
        return list(self._runs)

    def is_run_by(self, row: int, sink: TokenSink) -> bool:
        """True if the row's generation belongs to `sink`."""
        return row in self._runs and self._runs[row].command.sink is sink

    def is_newer(self, row: int, asked_s: float) -> bool:
        """True if the row's generation was asked for after `asked_s`."""
        return row in self._runs and self._runs[row].command.asked_s > asked_s

    def check_integrity(self) -> None:
        """Asserts that the table and the generations agree on who is generating."""
        assert set(np.flatnonzero(self._table.generating).tolist()) == set(self._runs)
        for row, run in self._runs.items():
            assert self._table.pending[row] == len(run.queue) - run.fed > 0, "nothing to feed"

    # -- drawing

    def _draw(self, rows: Int64s, logits: Tensor, now: float) -> list[int]:
        runs = [self._runs[row] for row in rows.tolist()]
        seqs = self._table.applied[rows]
        tokens = self._sampling.draw(rows, seqs, logits, self.recent[rows])
        details = details_of([run.command.spec.logprobs for run in runs], logits, tokens)
        ids = tokens.cpu().numpy().astype(np.int32)
        self.next_token[rows] = ids
        times, ended = _Times(), []
        for i, (row, run) in enumerate(zip(rows.tolist(), runs, strict=True)):
            if self._hand_out(row, run, int(ids[i]), details[i], times, now):
                ended.append(row)
        self._metrics.tokens(len(runs), np.asarray(times.first), np.asarray(times.inter))
        return ended

    def _hand_out(
        self, row: int, run: _Run, token_id: int, details: Details, times: _Times, now: float
    ) -> bool:
        """Gives one drawn token to its sink; returns True if the generation has ended with it."""
        run.kept.add(token_id, details)
        if len(run.kept) == 1:
            times.first.append(now - run.started_s)
        else:
            times.inter.append(now - run.last_token_s)
        run.last_token_s = now
        run.queue, run.fed = self.next_token[row : row + 1].copy(), 0
        self._table.pending[row] = 1
        ended = self._show(row, run, len(run.kept) - 1)
        if ended and not run.teller.done:
            self._ledger.when_durable(row, partial(self._ended, row, run.teller), now)
        return ended

    def _show(self, row: int, run: _Run, place: int) -> bool:
        """Tells a drawn token, as far as its text is known; True if the generation ends with it."""
        seq, durable = run.kept.seq(place), int(self._table.durable[row])
        token_id, details = run.kept.token(place)
        shown, reason = run.text.push(token_id, seq, details)
        run.teller.tell(seq, shown, durable)
        if reason is None:
            return False
        run.kept.finish = int(reason)
        end = GenerationEnd(
            reason=reason,
            prompt_tokens=run.kept.prompt_tokens,
            generated_tokens=place + 1,
            applied=seq,
            text=run.text.rest,
        )
        run.teller.finish(seq, end, durable)
        return True

    def _retell(self, row: int, run: _Run) -> bool:
        """Tells what was drawn before, and finds the place to go on from; True if that was all."""
        kept = run.kept
        fed = int(self._table.applied[row]) - kept.base
        if fed < kept.prompt_tokens:
            run.fed = fed
            return False
        for place in range(len(kept)):
            if self._show(row, run, place):
                if not run.teller.done:
                    waiter = partial(self._ended, row, run.teller)
                    self._ledger.when_durable(row, waiter, run.started_s)
                return True
        run.queue = np.asarray([kept.token(len(kept) - 1)[0]], np.int32)
        run.last_token_s = run.started_s
        return False

    def _ended(self, row: int, teller: Teller, error: CarouselError | None) -> None:
        """The store has, or cannot have, all of a generation that has ended."""
        if error is None:
            teller.let_out(int(self._table.durable[row]))
        else:
            teller.fail(error)
        if self._tellers.get(row) is teller:
            del self._tellers[row]

    def _replace_teller(
        self, row: int, teller: Teller | None, error: CarouselError | None = None
    ) -> None:
        """From now on `teller` hears of the row's generation; whoever heard of one before is told so."""
        former = self._tellers.pop(row, None)
        if former is not None:
            former.fail(error or CarouselError("SUPERSEDED", "a newer call goes on with this"))
        if teller is not None:
            self._tellers[row] = teller


def _prompt_ids(spec: GenerateSpec, base: int) -> Int32s:
    """What a prompt feeds after step `base`: its opening tokens only where the session begins."""
    prompt = spec.prompt
    if prompt is None:
        return np.empty(0, np.int32)
    assert not isinstance(prompt, str), "texts are encoded before they get into the inbox"
    return prompt[spec.opening_tokens if base else 0 :]
