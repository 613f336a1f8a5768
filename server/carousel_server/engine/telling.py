"""What a generation has drawn: kept, so that it can be told again; told, when it may be."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import TokenSink
from carousel_server.core.types import GeneratedToken, GenerateSpec, GenerationEnd, Int32s
from carousel_server.state.snapshot import KeptGeneration

Details = tuple[float | None, tuple[tuple[int, float], ...]]
"""Log-probability of a drawn token, and its alternatives."""


@dataclass(slots=True)
class Kept:
    """The generation that ran last in a session; see `state.snapshot.KeptGeneration`.

    Drawn token i was drawn from the output of step base + prompt_tokens + i.
    """

    base: int
    carry: int
    prompt_tokens: int
    digest: str
    finish: int = 0
    drawn: list[tuple[int, Details]] = field(default_factory=list)

    def seq(self, place: int) -> int:
        """The step whose output a token was drawn from."""
        return self.base + self.prompt_tokens + place

    def to_snapshot(self) -> KeptGeneration:
        """As a snapshot has it."""
        most = max((len(others) for _, (_, others) in self.drawn), default=0)
        ids = np.full((len(self.drawn), most), -1, np.int32)
        logprobs = np.full((len(self.drawn), most), np.nan, np.float32)
        for i, (_, (_, others)) in enumerate(self.drawn):
            for j, (token_id, logprob) in enumerate(others):
                ids[i, j], logprobs[i, j] = token_id, logprob
        own = [np.nan if logprob is None else logprob for _, (logprob, _) in self.drawn]
        return KeptGeneration(
            base=self.base,
            carry=self.carry,
            prompt_tokens=self.prompt_tokens,
            digest=self.digest,
            finish=self.finish,
            ids=np.asarray([token_id for token_id, _ in self.drawn], np.int32),
            logprobs=np.asarray(own, np.float32),
            alternative_ids=ids,
            alternative_logprobs=logprobs,
        )

    @classmethod
    def of(cls, taken: KeptGeneration) -> Kept:
        """From a snapshot."""
        kept = cls(taken.base, taken.carry, taken.prompt_tokens, taken.digest, taken.finish)
        for i, token_id in enumerate(taken.ids.tolist()):
            logprob = float(taken.logprobs[i])
            others = zip(
                taken.alternative_ids[i].tolist(),
                taken.alternative_logprobs[i].tolist(),
                strict=True,
            )
            alternatives = tuple((other, p) for other, p in others if other >= 0)
            kept.drawn.append((token_id, (None if np.isnan(logprob) else logprob, alternatives)))
        return kept


def digest_of(spec: GenerateSpec, prompt: Int32s) -> str:
    """What tells one request from another: all of it but its first_seq and its deadline."""
    sampling = spec.sampling
    parts = (
        spec.max_tokens,
        (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty),
        (sampling.seed, spec.stop, spec.stop_tokens, spec.logprobs),
    )
    return blake2b(prompt.tobytes() + repr(parts).encode(), digest_size=16).hexdigest()


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
