"""Types of arguments and results, besides arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, TypedDict

from google.protobuf.message import Message

from carousel_protos.states import STATE_TYPES
from carousel_protos.tensors import WIRE_DTYPES
from carousel_protos.v1 import carousel_pb2 as pb

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Phase(StrEnum):
    """The phase of a session's life."""

    OPENING = "opening"
    RESIDENT = "resident"
    PARKED = "parked"
    DRAINING = "draining"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class Durability(StrEnum):
    """What survives the death of the server. DEFAULT is ASYNC for a server with a store, else NONE."""

    DEFAULT = "unspecified"
    NONE = "none"
    ASYNC = "async"
    SYNC = "sync"
    SYNC_FSYNC = "sync+fsync"

    @classmethod
    def _missing_(cls, value: object) -> Durability | None:
        """Also finds a member by its name."""
        return cls.SYNC_FSYNC if value == "sync_fsync" else None


class FinishReason(StrEnum):
    """Why a generation ended."""

    LENGTH = "length"
    STOP = "stop"
    UNKNOWN = "unknown"


class Health(StrEnum):
    """Whether a server, or one of its models, is serving."""

    SERVING = "serving"
    NOT_SERVING = "not_serving"
    UNKNOWN = "unknown"


def _plain(info: type[DataclassInstance], message: Message, *apart: str) -> dict[str, Any]:
    """The fields of an info that its message has under the same names, and as the info has them."""
    return {f.name: getattr(message, f.name) for f in fields(info) if f.name not in apart}


_DTYPES = WIRE_DTYPES | {
    kind.wire: name if name == "bfloat16" else kind.bits for name, kind in STATE_TYPES.items()
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One field of a row, or one state of a session.

    Attributes:
        name: such as "y", or "0.h" for a state.
        dtype: a NumPy type string, such as "<f4". A state may also be "bfloat16".
        shape: of one step, or of one session.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, spec: pb.TensorSpec) -> Self:
        """Makes it from the protocol's message."""
        return cls(spec.name, _DTYPES.get(spec.dtype, "?"), tuple(spec.shape))


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """The samples of a model whose input is frames. `Signal` in carousel.proto explains the fields."""

    hop: int
    rate: int
    output: bool
    delay: int

    @classmethod
    def of(cls, signal: pb.Signal) -> Self:
        """Makes it from the protocol's message."""
        return cls(**_plain(cls, signal))


@dataclass(frozen=True, slots=True)
class DecoderInfo:
    """A model's second stage, with tokens of its own. `Decoder` in carousel.proto explains the fields."""

    vocabulary: int
    start: int
    stop: int
    most: int

    @classmethod
    def of(cls, decoder: pb.Decoder) -> Self:
        """Makes it from the protocol's message."""
        return cls(**_plain(cls, decoder))


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model. `Model` in carousel.proto explains the fields."""

    name: str
    fingerprint: str
    description: str
    cell: str
    layers: int
    hidden: int
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    causal: bool
    vocabulary: int
    generative: bool
    tokenizer: str
    labels: tuple[str, ...]
    parameters: int
    state_bytes: int
    compute_dtype: str
    window_steps: int
    max_sequence_steps: int
    states: tuple[TensorInfo, ...] = ()
    initials: tuple[str, ...] = ()
    signal: SignalInfo | None = None
    decoder: DecoderInfo | None = None

    @classmethod
    def of(cls, model: pb.Model) -> Self:
        """Makes it from the protocol's message."""
        apart = ("input", "outputs", "labels", "states", "initials", "signal", "decoder")
        return cls(
            **_plain(cls, model, *apart),
            signal=SignalInfo.of(model.signal) if model.HasField("signal") else None,
            decoder=DecoderInfo.of(model.decoder) if model.HasField("decoder") else None,
            input=TensorInfo.of(model.input),
            outputs=tuple(TensorInfo.of(spec) for spec in model.outputs),
            labels=tuple(model.labels),
            states=tuple(TensorInfo.of(spec) for spec in model.states),
            initials=tuple(model.initials),
        )

    @property
    def input_tokens(self) -> int:
        """Number of tokens that a step takes: those of all stages. 0 if the input is features."""
        return self.vocabulary + (0 if self.decoder is None else self.decoder.vocabulary)

    def label_names(self, indices: Iterable[int]) -> list[str]:
        """The class names of output indices, or the numbers where the model has no names."""
        if not self.labels:
            return [str(index) for index in indices]
        return [self.labels[index] for index in indices]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session at one instant. `Session` in carousel.proto explains the fields.

    If `holder` is not empty, that replica runs the session. Then `applied` and `durable` are those of the
    last commit in the store, and `ack` is 0.
    """

    id: str
    model: str
    phase: Phase
    applied: int
    ack: int
    durable: int
    epoch: int
    durability: Durability
    idle_ttl_s: float
    created_at: datetime
    fingerprint: str
    window_steps: int
    seed: int
    execution_class: str
    initial: str = ""
    holder: str = ""

    @classmethod
    def of(cls, session: pb.Session) -> Self:
        """Makes it from the protocol's message."""
        return cls(
            **_plain(cls, session, "phase", "durability", "idle_ttl_s", "created_at"),
            phase=PHASES.get(session.phase, Phase.UNKNOWN),
            durability=DURABILITIES.get(session.durability, Durability.DEFAULT),
            idle_ttl_s=session.idle_ttl.seconds + session.idle_ttl.nanos / 1e9,
            created_at=session.created_at.ToDatetime(UTC),
        )


@dataclass(frozen=True, slots=True)
class Alternative:
    """A possible token, with its natural log-probability."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `text` may be empty inside a multi-byte character."""

    id: int
    text: str
    seq: int
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()

    @classmethod
    def of(cls, token: pb.Token) -> Self:
        """Makes it from the protocol's message."""
        return cls(
            id=token.id,
            text=token.text,
            seq=token.seq,
            logprob=token.logprob if token.HasField("logprob") else None,
            alternatives=tuple(Alternative(a.id, a.logprob) for a in token.alternatives),
        )


class GenerateOptions(TypedDict, total=False):
    """The options of every `generate`, all by keyword. Each may be left out.

    Attributes:
        max_tokens: most tokens to generate, at least 1. Default 256. A decoder's `most` holds too.
        temperature: divides the logits. 0 always chooses the most probable token. Default 1.
        top_k: keep the k most probable tokens. 0 keeps all, and is the default.
        top_p: keep the fewest tokens with at least this probability in sum. Default 1.
        repetition_penalty: makes recent tokens less probable if above 1. Default 1.
        seed: the same seed repeats the text. A random one is the default.
        stop: text, or texts, at which to end. They are not part of the result. The text of a special
            token is its name, such as "</s>".
        stop_tokens: token ids at which to end.
        logprobs: report each token's log-probability and those of so many alternatives. None, the
            default, reports none.
        timeout_s: for the whole generation. None, the default, sets no limit.
        initial: name of the initial state, from `ModelInfo.initials`. Only where no session is given.
    """

    max_tokens: int
    temperature: float | None
    top_k: int
    top_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    logprobs: int | None
    timeout_s: float | None
    initial: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The numbers of tokens of a generation."""

    prompt_tokens: int
    generated_tokens: int
    applied: int


PHASES = {
    pb.PHASE_OPENING: Phase.OPENING,
    pb.PHASE_RESIDENT: Phase.RESIDENT,
    pb.PHASE_PARKED: Phase.PARKED,
    pb.PHASE_DRAINING: Phase.DRAINING,
    pb.PHASE_CLOSED: Phase.CLOSED,
}
DURABILITIES = {
    pb.DURABILITY_UNSPECIFIED: Durability.DEFAULT,
    pb.DURABILITY_NONE: Durability.NONE,
    pb.DURABILITY_ASYNC: Durability.ASYNC,
    pb.DURABILITY_SYNC: Durability.SYNC,
    pb.DURABILITY_SYNC_FSYNC: Durability.SYNC_FSYNC,
}
WIRE_DURABILITIES = {durability: number for number, durability in DURABILITIES.items()}
FINISH_REASONS = {
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_STOP: FinishReason.STOP,
}
STORE_SERVICE = "carousel.store"
"""The name of the store in grpc.health.v1."""

HEALTHS = {1: Health.SERVING, 2: Health.NOT_SERVING}
"""Health by the numbers of grpc.health.v1."""
