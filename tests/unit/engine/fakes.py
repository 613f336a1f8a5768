"""A model whose outputs can be told in advance, and places where results arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from carousel_models.kernels import Reference
from carousel_models.kernels.reference import gather
from carousel_models.spec import FeaturesInput, LayerSpec, Manifest, TokensInput
from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.moves import Why
from carousel_server.core.ports import Bind, Close, Command, Open, StepBlock
from carousel_server.core.quotas import Quotas
from carousel_server.core.types import (
    GeneratedToken,
    GenerationEnd,
    OpenSpec,
    SessionRef,
    SessionView,
)
from carousel_server.engine import Engine, Environment
from carousel_server.residency.directory import Directory

WIDTH = 2
VOCABULARY = 8


class Field(NamedTuple):
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class State(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    finite: bool = True


class RunningSum:
    """y[t] = x[1] + … + x[t]. Fails where an input is `poison`, and always once it is `broken`."""

    poison = 666.0
    broken = False

    def __init__(self, *, tokens: bool = False, causal: bool = True, tokenizer: Any = None) -> None:
        width = VOCABULARY if tokens else WIDTH
        self.manifest = Manifest(
            name="sum",
            fingerprint="0" * 64,
            input=TokensInput(vocabulary=VOCABULARY, embedding=VOCABULARY)
            if tokens
            else FeaturesInput(width=WIDTH),
            stack=(LayerSpec(cell="rnn_tanh", hidden=width),),
        )
        self.fingerprint = self.manifest.fingerprint
        self.device = torch.device("cpu")
        self.kernel = Reference()
        self.batch_invariant = False
        self.vocabulary = VOCABULARY if tokens else 0
        self.generative = tokens
        self.causal = causal
        self.parameters = 0
        self.state_specs = (State("sum", (width,), torch.float32),)
        self.initial: dict[str, tuple[Tensor, ...]] = {"": (torch.zeros(width),)}
        if not tokens:
            self.initial["seven"] = (torch.tensor([7.0, -7.0]),)
        self.unseen_states: tuple[int, ...] = ()
        self.plain = True
        self.state_bytes = width * 4
        self.tokenizer = tokenizer
        self.output_fields = (Field("y", torch.float32, (width,)),)
        self.batches: list[int] = []
        self.error: Exception = RuntimeError("poison")

    def initial_state(self, batch: int, name: str = "") -> tuple[Tensor, ...]:
        return tuple(tensor.expand(batch, *tensor.shape) for tensor in self.initial[name])

    def step(
        self, x: Tensor, state: tuple[Tensor, ...], slots: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        state = gather(state, slots)
        self.batches.append(len(x))
        self._fail(x)
        rows = torch.nn.functional.one_hot(x, VOCABULARY).float() if self.vocabulary else x
        total = state[0] + rows
        return total, (total,)

    def sequence(
        self, x: Tensor, lengths: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._fail(x)
        state = state or self.initial_state(len(x))
        rows = torch.nn.functional.one_hot(x, VOCABULARY).float() if self.vocabulary else x
        inside = (torch.arange(x.shape[1])[None, :] < lengths[:, None])[:, :, None]
        raw = (rows * inside).cumsum(1) + state[0][:, None]
        return raw * inside, (raw[:, -1],)

    def _fail(self, x: Tensor) -> None:
        if self.broken or (not self.vocabulary and bool((x == self.poison).any())):
            raise self.error

    def finish(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (raw,)


class Recorded(NamedTuple):
    tag: int
    seq: int
    row: np.ndarray


class RecordingSink:
    """Keeps what it is told; checks nothing itself."""

    def __init__(self) -> None:
        self.steps: list[Recorded] = []
        self.refusals: list[tuple[int, int, CarouselError]] = []
        self.refusal_calls = 0
        self.gone: list[tuple[int, CarouselError]] = []
        self.confirmed: list[tuple[int, int]] = []
        self.gone_away: list[tuple[int, int]] = []
        self.back: list[tuple[int, StepBlock]] = []
        self.moves: list[tuple[int, str]] = []
        self.calls = 0

    def outputs(self, tags: Any, first_seqs: Any, steps: int, rows: np.ndarray) -> None:
        self.calls += 1
        assert rows.flags.c_contiguous
        values = rows.view("<f4").reshape(len(tags), steps, -1)
        for tag, first, row in zip(tags.tolist(), first_seqs.tolist(), values, strict=True):
            self.steps += [Recorded(tag, first + j, row[j].copy()) for j in range(steps)]

    def failures(self, tags: Any, seqs: Any, error: CarouselError) -> None:
        self.refusals += [(tag, seq, error) for tag, seq in zip(tags, seqs, strict=True)]
        self.refusal_calls += 1

    def unbound(self, tag: int, error: CarouselError) -> None:
        self.gone.append((tag, error))

    def durable(self, tags: Any, seqs: Any) -> None:
        self.confirmed += zip(tags.tolist(), seqs.tolist(), strict=True)

    def away(self, tag: int, session: SessionView) -> None:
        self.gone_away.append((tag, session.ack))

    def returned(self, tag: int, block: StepBlock) -> None:
        self.back.append((tag, block))

    def moved(self, tag: int, address: str) -> None:
        self.moves.append((tag, address))

    def of(self, tag: int) -> list[tuple[int, list[float]]]:
        return [(s.seq, s.row.tolist()) for s in self.steps if s.tag == tag]

    @property
    def reasons(self) -> list[str]:
        return [error.reason for _, _, error in self.refusals]


class RecordingTokens:
    """Keeps the tokens of one generation."""

    def __init__(self) -> None:
        self.got: list[GeneratedToken] = []
        self.end: GenerationEnd | None = None
        self.error: CarouselError | None = None

    def tokens(self, tokens: Sequence[GeneratedToken]) -> None:
        assert not self.done
        self.got += tokens

    def finished(self, end: GenerationEnd) -> None:
        self.end = end

    def failed(self, error: CarouselError) -> None:
        self.error = error

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.got]

    @property
    def done(self) -> bool:
        return self.end is not None or self.error is not None


class CountingMetrics:
    """Counts what the engine tells."""

    def __init__(self) -> None:
        self.ticks: list[tuple[int, int, int]] = []
        self.ends: list[str] = []
        self.moves: list[str] = []
        self.losses: list[str] = []
        self.steps_delivered = 0
        self.tokens_delivered = 0
        self.sequences = 0
        self.by_tenant: Counter[str] = Counter()
        self.rows_by_tenant: dict[str, int] = {}
        self.spoilt = self.at_owner = self.elsewhere = 0

    def tick(self, rows: int, bucket: int, steps: Mapping[str, int], seconds: float) -> None:
        self.ticks.append((rows, bucket, sum(steps.values())))
        self.by_tenant.update(steps)

    def stepped(self, queue_s: np.ndarray, latency_s: np.ndarray) -> None:
        assert len(queue_s) == len(latency_s)
        self.steps_delivered += len(queue_s)

    def tokens(self, count: int, first_token_s: np.ndarray, inter_token_s: np.ndarray) -> None:
        assert count == len(first_token_s) + len(inter_token_s)
        self.tokens_delivered += count

    def inferred(self, sequences: int, steps: int, seconds: float) -> None:
        self.sequences += sequences

    def opened(self) -> None: ...

    def ended(self, how: str) -> None:
        self.ends.append(how)

    def not_finite(self) -> None:
        self.spoilt += 1

    def moved(self, how: str) -> None:
        self.moves.append(how)

    def placed(self, at_owner: int, elsewhere: int) -> None:
        self.at_owner += at_owner
        self.elsewhere += elsewhere

    def received(self) -> None:
        self.moves.append("received")

    def handed_over(self, why: Why, seconds: float) -> None:
        assert seconds >= 0
        self.moves.append(why)

    def data_loss(self, reason: str) -> None:
        self.losses.append(reason)

    def durable(self, lag_s: np.ndarray) -> None:
        assert (lag_s >= 0).all()

    def gauges(self, **levels: int) -> None: ...

    def tenant_sessions(self, rows: Mapping[str, int]) -> None:
        self.rows_by_tenant = dict(rows)


class Rig:
    """An engine without its thread: commands in, ticks by hand, a clock that tests move."""

    def __init__(
        self,
        model: Any = None,
        *,
        strict: bool = False,
        directory: Directory | None = None,
        quotas: Quotas | None = None,
        **limits: Any,
    ) -> None:
        self.now = 1000.0
        self.ticks = 0
        self.metrics = CountingMetrics()
        self.model = model or RunningSum()
        self.directory = Directory() if directory is None else directory
        settings = {"slots": 8, "max_batch": 8, "chunk_steps": 4, "window_steps": 8} | limits
        self.engine = Engine(
            self.model,
            EngineLimits(**settings),
            Environment(
                self.directory,
                lambda _view: self.metrics,
                quotas=quotas or Quotas(),
                strict=strict,
                clock=lambda: self.now,
            ),
        )

    def run(self, command: Command) -> Any:
        """Submits, ticks once, and gives the answer of the command's future."""
        self.engine.submit(command)
        self.tick()
        reply = getattr(command, "reply", None)
        return reply.result(timeout=0) if reply is not None else None

    def together(self, commands: Sequence[Command]) -> None:
        """Submits commands, and ticks once."""
        for command in commands:
            self.engine.submit(command)
        self.tick()

    def tick(self) -> None:
        self.ticks += 1
        with torch.inference_mode():
            self.engine.tick()
        self.engine.check_integrity()

    def settle(self) -> None:
        """Ticks until there is nothing to do."""
        for _ in range(10_000):
            if self.engine.idle:
                return
            self.tick()
        raise AssertionError("the engine does not come to rest")

    def open(self, session_id: str = "", tenant: str = "t", **spec: Any) -> SessionRef:
        ref: SessionRef = self.run(Open(OpenSpec(tenant, session_id, **spec)))[0]
        return ref

    def bind(self, ref: SessionRef, sink: RecordingSink, tag: int = 1) -> None:
        self.run(Bind(ref, sink, tag))

    def session(self, sink: RecordingSink, tag: int = 1, session_id: str = "") -> SessionRef:
        ref = self.open(session_id)
        self.bind(ref, sink, tag)
        return ref

    def close(self, ref: SessionRef) -> Any:
        return self.run(Close(ref))


def rows(*values: float) -> bytes:
    """Input rows (v, -v)."""
    return np.asarray([[v, -v] for v in values], "<f4").tobytes()


def block(
    sink: RecordingSink, ref: SessionRef, first_seq: int, *values: float, tag: int = 1, **more: Any
) -> StepBlock:
    """Consecutive steps of one session."""
    return StepBlock(sink, [tag], [ref], [first_seq], len(values), rows(*values), **more)
