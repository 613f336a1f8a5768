"""Generations: sessions that feed themselves. Prompt in chunks, then one drawn token per tick.

What was drawn is kept until the session goes on with something else, on its row and in snapshots. So the same
request can come again. Its sink gets the same tokens from the first on, and the generation goes on where it
stopped: cancelled, cut off with its stream, or restored from the store in another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from carousel_models import RecurrentModel
from carousel_models.tokenizer import CONTEXT_TOKENS
from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Generate
from carousel_server.core.sinks import TokenSink
from carousel_server.core.types import GenerateSpec, GenerationEnd, Int32s, Int64s
from carousel_server.residency.residency import Residency
from carousel_server.rows.rows import Rows
from carousel_server.rows.tokens import Details, GenerationLog, TokenOutbox

from .requests import digest_of, prompt_ids
from .sampling import Sampling, details_of
from .texts import GeneratedText


@dataclass(slots=True)
class _Run:
    """One generation that runs."""

    command: Generate
    log: GenerationLog
    outbox: TokenOutbox
    queue: Int32s  # tokens to feed before the next draw
    text: GeneratedText
    started_s: float
    fed: int = 0  # how many of `queue` were fed
    last_token_s: float = 0.0


class Generations:
    """The generations that run. Used on the engine's thread only.

    Settings that the sampler needs stand in arrays by row; everything that is touched once per token
    and generation stands in a `_Run`. What was drawn stands in the rows.
    """

    def __init__(
        self, context: Context, rows: Rows, residency: Residency, model: RecurrentModel
    ) -> None:
        self._metrics = context.metrics
        self._rows = rows
        self._table = rows.table
        self._tokens = rows.tokens
        self._residency = residency
        # Drawn token i is fed as first_drawn + i.
        self._decoder, self._first_drawn = context.model.decoder, context.model.first_drawn
        self._tokenizer = model.tokenizer
        self._eos = frozenset(model.manifest.eos_tokens)
        self._runs: dict[int, _Run] = {}
        # Of a model that generates no text, no row draws.
        self._sampling = Sampling(context.limits.slots if context.model.generative else 0)
        rows.leaving = self._forget_run

    def __len__(self) -> int:
        """Number of generations running."""
        return len(self._runs)

    def continues(self, row: int, spec: GenerateSpec) -> bool:
        """True if a request asks for the row's last generation again.

        Raises:
            CarouselError: SEQUENCE_REUSED: it has that one's first_seq, but is another request.
        """
        log = self._tokens.logs.get(row)
        if log is None or spec.first_seq != log.begun.base + 1:
            return False
        if digest_of(spec, prompt_ids(spec, log.begun.base)) != log.begun.digest:
            if int(self._table.applied[row]) == log.begun.base:
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
        log, queue = self._log_of(row, spec)
        self._sampling.set(row, spec.sampling, int(self._table.seed[row]))
        tracked, sync = bool(self._table.tracked[row]), bool(self._table.sync[row])
        run = _Run(
            command=command,
            log=log,
            outbox=TokenOutbox(command.sink, command.asked_s, tokens_wait=sync, end_waits=tracked),
            queue=queue,
            text=GeneratedText(
                self._tokenizer,
                self._eos,
                spec,
                [*log.begun.context, *queue[-CONTEXT_TOKENS:].tolist()],
                ends_session=command.close_after,
            ),
            started_s=now,
        )
        self._tokens.send_to(row, run.outbox)
        begins = int(self._table.applied[row]) == log.begun.base
        self._rows.generate(row, reset=begins and self._starts_over(spec, log.begun.base))
        if self._replay(row, run):
            self._rows.end_generation(row)
            return
        self._rows.feed(np.asarray([row]), len(run.queue) - run.fed)
        self._runs[row] = run

    def _log_of(self, row: int, spec: GenerateSpec) -> tuple[GenerationLog, Int32s]:
        """The log of a request's generation, a new one unless it is asked for again, and what it feeds."""
        again = self.continues(row, spec)
        log = self._tokens.logs[row] if again else None
        base = int(self._table.applied[row]) if log is None else log.begun.base
        carry = self._carry(row, spec) if log is None else log.begun.carry
        prompt = prompt_ids(spec, base)
        before, after = [carry] * (carry >= 0), list[int]()
        if self._decoder is not None and carry < 0:
            after = [self._first_drawn + self._decoder.start]
        queue = np.concatenate((before, prompt, after)).astype(np.int32)
        if not len(queue):
            raise CarouselError(
                "FIELD_INVALID",
                "a first generation, or one after a reset, needs a prompt of at least one token",
                field="prompt",
            )
        if log is None:
            over = self._starts_over(spec, base)
            context = [] if over else self._tokens.last(row, CONTEXT_TOKENS)
            digest = digest_of(spec, prompt)
            log = GenerationLog.new(base, carry, len(queue), digest, context, spec.logprobs or 0)
            self._tokens.logs[row] = log
        elif not log.fits(len(queue), spec.logprobs or 0):
            raise CarouselError("SEQUENCE_REUSED", "the session's snapshot is of another request")
        return log, queue

    def _carry(self, row: int, spec: GenerateSpec) -> int:
        """The token drawn last, which a new generation feeds first; -1 if there is none."""
        over = self._starts_over(spec, int(self._table.applied[row]))
        return -1 if over else int(self._tokens.next_token[row])

    def _starts_over(self, spec: GenerateSpec, base: int) -> bool:
        """True if a generation after step `base` starts from the initial state.

        An encoder always does, as it cannot read a prompt from where the decoder stopped.
        """
        encodes = self._decoder is not None and spec.prompt is not None and base > 0
        return spec.reset or encodes

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
            raw: float32[n, drawn_tokens], logits of each row's last step.
            now: the tick's end.

        Returns:
            Rows whose generation has ended.
        """
        runs = [self._runs[row] for row in rows.tolist()]
        self._remember(rows, counts, runs)
        left = np.asarray([len(run.queue) - run.fed for run in runs])
        # One that has fed all it had draws, and feeds what it draws.
        self._rows.feed(rows, np.maximum(left, 1))
        chosen = np.flatnonzero(left == 0)
        if not len(chosen):
            return []
        return self._draw(rows[chosen], raw[torch.from_numpy(chosen)], now)

    def _remember(self, rows: Int64s, counts: Int64s, runs: Sequence[_Run]) -> None:
        """Takes what has run from the queues; mostly it is one token of each."""
        fed = []
        for run, count in zip(runs, counts.tolist(), strict=True):
            fed.append(run.queue[run.fed : run.fed + count])
            run.fed += count
        if counts[0] == counts[-1]:  # they descend
            self._tokens.remember(rows, np.stack(fed))
            return
        for i, tokens in enumerate(fed):
            self._tokens.remember(rows[i : i + 1], tokens[None])

    def end(self, row: int, error: CarouselError | None) -> None:
        """Ends a row's generation, and the session if that was its only purpose.

        The sink gets the error. Without one, its caller has cancelled it, or has had its end.
        """
        if self.stop(row, error).close_after:
            self._residency.close(row)

    def stop(self, row: int, error: CarouselError | None) -> Generate:
        """Ends a row's generation as `end`, but keeps the session. Returns what it was asked with."""
        run = self._runs.pop(row)
        self._rows.end_generation(row)
        if error is not None and not run.outbox.ending:
            run.outbox.fail(error)
        if run.outbox.done or not run.outbox.ending:
            self._tokens.outboxes.pop(row, None)
        return run.command

    def forget(self, row: int) -> None:
        """The row's last generation cannot be gone on with."""
        self._tokens.logs.pop(row, None)

    def _forget_run(self, row: int) -> None:
        """Forgets a run whose session leaves its row; the row fails the outbox."""
        self._runs.pop(row, None)

    def fail_all(self, error: CarouselError) -> None:
        """Fails the generations that wait for the store's answer, at the end of the engine."""
        for row in list(self._tokens.outboxes):
            self._tokens.fail(row, error)

    def rows(self) -> list[int]:
        """Rows that are generating."""
        return list(self._runs)

    def is_run_by(self, row: int, sink: TokenSink) -> bool:
        """True if the row's generation belongs to `sink`."""
        return row in self._runs and self._runs[row].command.sink is sink

    def is_repeatable(self, row: int) -> bool:
        """True if the row's generation can be asked for again, and then goes on."""
        return row in self._runs and self._runs[row].command.spec.first_seq > 0

    def is_newer(self, row: int, asked_s: float) -> bool:
        """True if a call of after `asked_s` still waits for tokens or the end of the row's generation."""
        outbox = self._tokens.outboxes.get(row)
        return outbox is not None and outbox.asked_s > asked_s

    def check_integrity(self) -> None:
        """Asserts that the table and the generations agree on who is generating."""
        assert set(np.flatnonzero(self._table.generating).tolist()) == set(self._runs)
        for row, run in self._runs.items():
            assert self._table.pending[row] == len(run.queue) - run.fed > 0, "nothing to feed"

    # -- drawing

    def _draw(self, rows: Int64s, logits: Tensor, now: float) -> list[int]:
        runs = [self._runs[row] for row in rows.tolist()]
        seqs = self._table.applied[rows]
        recent = np.maximum(self._tokens.recent[rows] - self._first_drawn, -1)
        tokens = self._sampling.draw(rows, seqs, logits, recent)
        details = details_of([run.command.spec.logprobs for run in runs], logits, tokens)
        ids = tokens.cpu().numpy().astype(np.int32)
        self._tokens.drew(rows, ids + self._first_drawn)
        first = [now - run.started_s for run in runs if not len(run.log)]
        inter = [now - run.last_token_s for run in runs if len(run.log)]
        ended = []
        for row, run, token_id, of in zip(rows.tolist(), runs, ids.tolist(), details, strict=True):
            run.log.add(token_id, of)
            run.last_token_s = now
            run.queue, run.fed = np.asarray([token_id + self._first_drawn], np.int32), 0
            if self._show(row, run, len(run.log) - 1, token_id, of, now):
                ended.append(row)
        self._metrics.tokens(len(runs), np.asarray(first), np.asarray(inter))
        return ended

    def _show(
        self, row: int, run: _Run, place: int, token_id: int, details: Details, now: float
    ) -> bool:
        """Sends a drawn token, as far as its text is known; True if the generation ends with it."""
        seq, durable = run.log.seq(place), int(self._table.durable[row])
        shown, reason = run.text.push(token_id, seq, details)
        run.outbox.add(seq, shown, durable)
        if reason is None:
            return False
        run.log.finish = int(reason)
        end = GenerationEnd(
            reason=reason,
            prompt_tokens=run.log.begun.prompt_tokens,
            generated_tokens=place + 1,
            applied=seq,
            text=run.text.rest,
        )
        run.outbox.finish(seq, end, durable)
        if not run.outbox.done:
            self._rows.ledger.when_durable(row, partial(self._ended, row, run.outbox), now)
        return True

    def _replay(self, row: int, run: _Run) -> bool:
        """Sends what was drawn before, and finds the place to go on from; True if that was all."""
        log = run.log
        fed = int(self._table.applied[row]) - log.begun.base
        if fed < log.begun.prompt_tokens:
            run.fed = fed
            return False
        for place in range(len(log)):
            if self._show(row, run, place, *log.token(place), run.started_s):
                return True
        run.queue = np.asarray([log.token(len(log) - 1)[0] + self._first_drawn], np.int32)
        run.last_token_s = run.started_s
        return False

    def _ended(self, row: int, outbox: TokenOutbox, error: CarouselError | None) -> None:
        """The store has, or cannot have, all of a generation that has ended."""
        if error is None:
            outbox.release(int(self._table.durable[row]))
        else:
            outbox.fail(error)
        if self._tokens.outboxes.get(row) is outbox:
            del self._tokens.outboxes[row]
