"""What the sessions of a generative model have drawn, and who gets it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.sinks import TokenSink
from carousel_server.core.types import (
    GeneratedToken,
    GenerationEnd,
    Int32s,
    Int64s,
)

from .snapshot import KeptGeneration, Snapshot

RECENT_TOKENS = 64
"""Number of last tokens that the repetition penalty counts."""

_FIRST_ROOM = 64

_UNKNOWN = (-1, math.nan, -1, math.nan)
"""What stands in a log where nothing was asked for: ids, logprobs, and those of alternatives."""

Details = tuple[float | None, tuple[tuple[int, float], ...]]
"""Log-probability of a drawn token, and its alternatives."""


class Tokens:
    """Tokens of each row. Used on the engine's thread only; arrays are written here only.

    Attributes:
        next_token: int32[slots], the token drawn last and not fed yet, -1 if none: a later generation
            goes on from it. It is as it will be fed, as are those of `recent`.
        recent: int32[slots, 64], the last tokens that were fed, newest last, -1 where there is none.
        logs: by row, the generation that ran last, while it can be asked for again.
        outboxes: by row, who gets the last generation; longer than it runs if the end must wait.
    """

    def __init__(self, slots: int, *, generative: bool) -> None:
        self.next_token: Int32s = np.full(slots, -1, np.int32)
        self.recent: Int32s = np.full((slots, RECENT_TOKENS if generative else 0), -1, np.int32)
        self.logs: dict[int, GenerationLog] = {}
        self.outboxes: dict[int, TokenOutbox] = {}

    def reset(self, row: int) -> None:
        """Forgets a row's tokens, when a session begins."""
        self.start_over(np.asarray([row]))
        self.logs.pop(row, None)

    def restore(self, row: int, snapshot: Snapshot) -> None:
        """Sets the tokens of a fresh row, and its last generation, as a snapshot has them."""
        self.next_token[row] = snapshot.next_token
        self.remember(np.asarray([row]), np.asarray([snapshot.recent_tokens], np.int32))
        if snapshot.generation is not None:
            self.logs[row] = GenerationLog(snapshot.generation)

    def remember(self, rows: Int64s, tokens: Int32s) -> None:
        """Adds int32[n, k] tokens that were fed to the recent ones of n sessions."""
        recent = np.concatenate((self.recent[rows], tokens), axis=1)
        self.recent[rows] = recent[:, recent.shape[1] - self.recent.shape[1] :]

    def fed(self, rows: Int64s, tokens: Int32s) -> None:
        """The client itself fed int32[n, k] tokens to n sessions: it decides what comes next."""
        self.next_token[rows] = -1
        self.remember(rows, tokens)
        if self.logs:
            for row in rows.tolist():
                self.logs.pop(row, None)

    def start_over(self, rows: Int64s) -> None:
        """The sessions start again from their initial state: nothing that was fed before counts."""
        self.next_token[rows] = -1
        self.recent[rows] = -1

    def drew(self, rows: Int64s, ids: Int32s) -> None:
        """A token was drawn for each of n rows; `ids` as they will be fed."""
        self.next_token[rows] = ids

    def last(self, row: int, most: int) -> list[int]:
        """The last tokens that the row was fed, oldest first."""
        recent = self.recent[row, -most:]
        tokens: list[int] = recent[recent >= 0].tolist()
        return tokens

    # -- who gets them

    def send_to(self, row: int, outbox: TokenOutbox) -> None:
        """Sends tokens of the row's generation to `outbox` from now on; a former one fails."""
        self.fail(row, CarouselError("SUPERSEDED", "a newer call goes on with this"))
        self.outboxes[row] = outbox

    def release(self, row: int, durable: int) -> None:
        """Sends what waited for the store to have the row up to step `durable`."""
        outbox = self.outboxes.get(row)
        if outbox is not None:
            outbox.release(durable)
            if outbox.done:
                del self.outboxes[row]

    def fail(self, row: int, error: CarouselError) -> None:
        """Fails the outbox of the row, if it has one."""
        outbox = self.outboxes.pop(row, None)
        if outbox is not None:
            outbox.fail(error)

    def leave(self, row: int, error: CarouselError) -> None:
        """The row's session leaves."""
        self.fail(row, error)
        self.logs.pop(row, None)


class GenerationLog:
    """The generation that ran last in a session.

    Drawn token i was drawn from the output of step base + prompt_tokens + i. Tokens stand in buffers that
    grow by doubling; what a snapshot has of them is never written again, so nothing is copied for it.

    Attributes:
        begun: its facts, with the tokens that it had when the session came onto its row.
        finish: why it ended, as in carousel.proto; 0 while it runs.
    """

    def __init__(self, begun: KeptGeneration) -> None:
        self.begun = begun
        self.finish = begun.finish
        self._count = len(begun.ids)
        self._buffers = [
            begun.ids,
            begun.logprobs,
            begun.alternative_ids,
            begun.alternative_logprobs,
        ]

    @classmethod
    def new(
        cls,
        base: int,
        carry: int,
        prompt_tokens: int,
        digest: str,
        context: Sequence[int],
        most: int,
    ) -> GenerationLog:
        """Of a generation that begins; `most` is how many alternatives of each token it reports."""
        ids, logprobs = np.empty(0, np.int32), np.empty(0, np.float32)
        others, their = np.empty((0, most), np.int32), np.empty((0, most), np.float32)
        tokens = (ids, logprobs, others, their)
        return cls(KeptGeneration(base, carry, prompt_tokens, digest, tuple(context), 0, *tokens))

    def __len__(self) -> int:
        """Number of tokens drawn."""
        return self._count

    def fits(self, prompt_tokens: int, alternatives: int) -> bool:
        """True if it can be of a request that feeds and reports so many."""
        widths = (self.begun.prompt_tokens, self.begun.alternative_ids.shape[1])
        return widths == (prompt_tokens, alternatives)

    def seq(self, place: int) -> int:
        """The step whose output a token was drawn from."""
        return self.begun.base + self.begun.prompt_tokens + place

    def add(self, token_id: int, details: Details) -> None:
        """Adds a token that was drawn."""
        at, (logprob, others) = self._count, details
        if at == len(self._buffers[0]):
            self._buffers = [*map(_grown, self._buffers, _UNKNOWN)]
        ids, logprobs, other_ids, other_logprobs = self._buffers
        ids[at] = token_id
        if logprob is not None:  # else it stays NaN
            logprobs[at] = logprob
        for j, (other_id, other) in enumerate(others):
            other_ids[at, j], other_logprobs[at, j] = other_id, other
        self._count += 1

    def token(self, place: int) -> tuple[int, Details]:
        """A drawn token, with its log-probability and alternatives if they were asked for."""
        token_id, logprob, ids, logprobs = (buffer[place].tolist() for buffer in self._buffers)
        others = tuple((i, p) for i, p in zip(ids, logprobs, strict=True) if i >= 0)
        return token_id, (None if math.isnan(logprob) else logprob, others)

    def to_snapshot(self) -> KeptGeneration:
        """Its facts and all its tokens."""
        ids, logprobs, others, their = (buffer[: self._count] for buffer in self._buffers)
        return replace(
            self.begun,
            finish=self.finish,
            ids=ids,
            logprobs=logprobs,
            alternative_ids=others,
            alternative_logprobs=their,
        )


def _grown(old: np.ndarray, unknown: float) -> np.ndarray:
    """A new buffer with twice the room: a snapshot may still be read from the old one."""
    new = np.full((max(2 * len(old), _FIRST_ROOM), *old.shape[1:]), unknown, old.dtype)
    new[: len(old)] = old
    return new


class TokenOutbox:
    """Tokens of one generation that wait for their sink until the store has their steps, where they must.

    Attributes:
        asked_s: monotonic instant at which the sink's call came. An older call does not replace it.
        done: the sink has had its last call.
    """

    def __init__(
        self, sink: TokenSink, asked_s: float, *, tokens_wait: bool, end_waits: bool
    ) -> None:
        """`tokens_wait` for their steps to be durable (sync sessions); `end_waits` for its own."""
        self.asked_s = asked_s
        self.done = False
        self._sink = sink
        self._tokens_wait = tokens_wait
        self._end_waits = end_waits
        # (seq, tokens) and at last (seq, end), in the order in which they are sent.
        self._waiting: deque[tuple[int, Sequence[GeneratedToken] | GenerationEnd]] = deque()

    def add(self, seq: int, tokens: Sequence[GeneratedToken], durable: int) -> None:
        """Adds tokens that may be known once step `seq` counts; `durable` as of now."""
        if tokens:
            self._waiting.append((seq, tokens))
            self.release(durable)

    def finish(self, seq: int, end: GenerationEnd, durable: int) -> None:
        """Adds the end; nothing comes after it."""
        self._waiting.append((seq, end))
        self.release(durable)

    @property
    def ending(self) -> bool:
        """True if the end was sent, or waits to be."""
        return self.done or (
            bool(self._waiting) and isinstance(self._waiting[-1][1], GenerationEnd)
        )

    def release(self, durable: int) -> None:
        """Sends what the store has by now."""
        while self._waiting and not self.done:
            seq, sent = self._waiting[0]
            is_end = isinstance(sent, GenerationEnd)
            if (self._end_waits if is_end else self._tokens_wait) and seq > durable:
                return
            self._waiting.popleft()
            if isinstance(sent, GenerationEnd):
                self.done = True
                self._sink.finished(sent)
            else:
                self._sink.tokens(sent)

    def fail(self, error: CarouselError) -> None:
        """Fails the generation, unless its end was sent."""
        if not self.done:
            self.done = True
            self._waiting.clear()
            self._sink.failed(error)
