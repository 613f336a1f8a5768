"""What a generation has drawn: kept, so that it can be told again; told, when it may be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.sinks import TokenSink
from carousel_server.core.types import GeneratedToken, GenerateSpec, GenerationEnd, Int32s
from carousel_server.rows.snapshot import KeptGeneration

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_FIRST_ROOM = 64

Details = tuple[float | None, tuple[tuple[int, float], ...]]
"""Log-probability of a drawn token, and its alternatives."""


class Kept:
    """The generation that ran last in a session; see `state.snapshot.KeptGeneration`.

    Drawn token i was drawn from the output of step base + prompt_tokens + i. Tokens stand in buffers that
    grow by doubling; what a snapshot has of them is never written again, so nothing is copied for it.
    """

    def __init__(
        self,
        base: int,
        carry: int,
        prompt_tokens: int,
        digest: str,
        alternatives: int,
        context: Sequence[int],
    ) -> None:
        self.base = base
        self.carry = carry
        self.prompt_tokens = prompt_tokens
        self.digest = digest
        self.context = tuple(context)
        self.finish = 0
        self._count = 0
        self._ids = np.empty(_FIRST_ROOM, np.int32)
        self._logprobs = np.empty(_FIRST_ROOM, np.float32)
        self._other_ids = np.empty((_FIRST_ROOM, alternatives), np.int32)
        self._other_logprobs = np.empty((_FIRST_ROOM, alternatives), np.float32)

    def __len__(self) -> int:
        """Number of tokens drawn."""
        return self._count

    def fits(self, prompt_tokens: int, alternatives: int) -> bool:
        """True if it can be of a request that feeds and reports so many."""
        widths = (self.prompt_tokens, self._other_ids.shape[1])
        return widths == (prompt_tokens, alternatives)

    def seq(self, place: int) -> int:
        """The step whose output a token was drawn from."""
        return self.base + self.prompt_tokens + place

    def add(self, token_id: int, details: Details) -> None:
        """One more token was drawn."""
        if self._count == len(self._ids):
            self._grow()
        at, (logprob, others) = self._count, details
        self._ids[at] = token_id
        self._logprobs[at] = np.nan if logprob is None else logprob
        self._other_ids[at] = -1
        for j, (other_id, other) in enumerate(others):
            self._other_ids[at, j], self._other_logprobs[at, j] = other_id, other
        self._count += 1

    def token(self, place: int) -> tuple[int, Details]:
        """A drawn token, with its log-probability and alternatives if they were asked for."""
        logprob = float(self._logprobs[place])
        ids, logprobs = self._other_ids[place].tolist(), self._other_logprobs[place].tolist()
        others = tuple((i, p) for i, p in zip(ids, logprobs, strict=True) if i >= 0)
        return int(self._ids[place]), (None if np.isnan(logprob) else logprob, others)

    def to_snapshot(self) -> KeptGeneration:
        """As a snapshot has it."""
        n = self._count
        return KeptGeneration(
            base=self.base,
            carry=self.carry,
            prompt_tokens=self.prompt_tokens,
            digest=self.digest,
            context=self.context,
            finish=self.finish,
            ids=self._ids[:n],
            logprobs=self._logprobs[:n],
            alternative_ids=self._other_ids[:n],
            alternative_logprobs=self._other_logprobs[:n],
        )

    @classmethod
    def of(cls, taken: KeptGeneration) -> Kept:
        """From a snapshot."""
        most = taken.alternative_ids.shape[1]
        kept = cls(taken.base, taken.carry, taken.prompt_tokens, taken.digest, most, taken.context)
        kept.finish = taken.finish
        kept._count = len(taken.ids)
        kept._ids, kept._logprobs = taken.ids, taken.logprobs
        kept._other_ids, kept._other_logprobs = taken.alternative_ids, taken.alternative_logprobs
        return kept

    def _grow(self) -> None:
        """Twice the room, in new buffers: a snapshot may still be read from the old ones."""
        room = max(2 * self._count, _FIRST_ROOM)

        def grown(old: np.ndarray) -> np.ndarray:
            new = np.empty((room, *old.shape[1:]), old.dtype)
            new[: self._count] = old
            return new

        self._ids, self._logprobs = grown(self._ids), grown(self._logprobs)
        self._other_ids, self._other_logprobs = grown(self._other_ids), grown(self._other_logprobs)


_OF_THE_CALL = frozenset(("prompt", "opening_tokens", "first_seq", "deadline_s"))
"""Fields that do not tell one request from another. The prompt counts by the token ids that it gives."""

_PINNED = (
    ("max_tokens",),
    ("temperature", "top_k", "top_p", "repetition_penalty"),
    ("seed", "stop", "stop_tokens", "logprobs"),
)
"""How the first options are written. Snapshots hold digests, so this form stays as it is."""


def digest_of(spec: GenerateSpec, prompt: Int32s) -> str:
    """What tells one request from another: the prompt's token ids, and every option of the request.

    An option that is not pinned counts where it differs from its default. So the digests of older snapshots
    stay right when an option is added.
    """
    options = {name: value for name, value in _options(spec) if name not in _OF_THE_CALL}
    (most,), *pairs = (tuple(options.pop(name)[0] for name in names) for names in _PINNED)
    text = repr((most, *pairs))
    added = [(name, value) for name, (value, default) in options.items() if value != default]
    if added:
        text += repr(sorted(added))
    return blake2b(prompt.tobytes() + text.encode(), digest_size=16).hexdigest()


def _options(spec: DataclassInstance) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Name, value and default of each field, also of those inside a field that is a dataclass."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from _options(value)
        else:
            yield field.name, (value, field.default)


class Teller:
    """Tokens of one generation on their way to its sink, which must be durable first where asked for.

    `tokens_wait`: each token waits for its step to be durable (sync sessions). `end_waits`: so does the
    end, so that a client that has heard it owes the session nothing.
    """

    def __init__(self, sink: TokenSink, *, tokens_wait: bool, end_waits: bool) -> None:
        self.sink = sink
        self.done = False
        """The sink has heard its last word."""
        self._tokens_wait = tokens_wait
        self._end_waits = end_waits
        # (seq, tokens) and at last (seq, end), in the order of telling.
        self._waiting: deque[tuple[int, Sequence[GeneratedToken] | GenerationEnd]] = deque()

    def tell(self, seq: int, tokens: Sequence[GeneratedToken], durable: int) -> None:
        """Tokens that may be known once step `seq` counts; `durable` as of now."""
        if tokens:
            self._waiting.append((seq, tokens))
            self.let_out(durable)

    def finish(self, seq: int, end: GenerationEnd, durable: int) -> None:
        """The end; nothing comes after it."""
        self._waiting.append((seq, end))
        self.let_out(durable)

    @property
    def ending(self) -> bool:
        """The end is told, or waits to be."""
        return self.done or (
            bool(self._waiting) and isinstance(self._waiting[-1][1], GenerationEnd)
        )

    def let_out(self, durable: int) -> None:
        """Tells what the store has by now."""
        while self._waiting and not self.done:
            seq, told = self._waiting[0]
            is_end = isinstance(told, GenerationEnd)
            if (self._end_waits if is_end else self._tokens_wait) and seq > durable:
                return
            self._waiting.popleft()
            if isinstance(told, GenerationEnd):
                self.done = True
                self.sink.finished(told)
            else:
                self.sink.tokens(told)

    def fail(self, error: CarouselError) -> None:
        """Ends it badly, unless it has ended well."""
        if not self.done:
            self.done = True
            self._waiting.clear()
            self.sink.failed(error)
