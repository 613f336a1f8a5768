"""Objects of answers, as pydantic models. The OpenAPI document is made of them, and of the requests'."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """An object of an answer."""

    model_config = ConfigDict(extra="forbid")


class Tensor(Answer):
    """A field of a row, or a state."""

    name: str
    dtype: str
    shape: list[int]


class SignalShown(Answer):
    """The samples of a model of a signal."""

    hop: int
    rate: int
    output: bool
    delay: int


class DecoderShown(Answer):
    """A second stage with tokens of its own."""

    vocabulary: int
    start: int
    stop: int
    most: int


class ModelShown(Answer):
    """A model."""

    name: str
    fingerprint: str
    description: str
    cell: str
    layers: int
    hidden: int
    causal: bool
    vocabulary: int
    generative: bool
    tokenizer: str
    parameters: int
    state_bytes: int
    compute_dtype: str
    window_steps: int
    max_sequence_steps: int
    labels: list[str]
    initials: list[str]
    input: Tensor
    outputs: list[Tensor]
    states: list[Tensor]
    signal: SignalShown | None
    decoder: DecoderShown | None


class ModelList(Answer):
    """A page of models."""

    models: list[ModelShown]
    next_page_token: str


class HistogramShown(Answer):
    """Counts of times in seconds. `counts` are cumulative, and have one more entry, for what is beyond."""

    bounds: list[float]
    counts: list[int]
    sum: float


class MetricsShown(Answer):
    """Numbers of the server, or of the caller's tenant, by model and by the name of the metric."""

    scope: Literal["server", "tenant"]
    at_s: float = Field(
        description="When they were read. Only differences of two answers have a meaning."
    )
    models: dict[str, dict[str, bool | float | HistogramShown]]


class SessionShown(Answer):
    """A session with its cursors."""

    id: str
    model: str
    phase: Literal["opening", "resident", "parked", "draining", "closed"]
    applied: int
    ack: int
    durable: int
    epoch: int
    durability: Literal["default", "none", "async", "sync", "sync+fsync"]
    idle_ttl_s: float
    created_at: str
    fingerprint: str
    window_steps: int
    seed: str = Field(description="A decimal number of 64 bits.")
    execution_class: str
    initial: str
    holder: str


class SessionList(Answer):
    """A page of sessions."""

    sessions: list[SessionShown]
    next_page_token: str


class StateTensor(Tensor):
    """A state with its numbers, as nested lists."""

    data: Any


class StateShown(Answer):
    """The state of a session."""

    state: list[StateTensor]
    session: SessionShown


class StepsRun(Answer):
    """Outputs of steps: by the name of the field, lists of shape [steps, *field]."""

    first_seq: int
    outputs: dict[str, list[Any]]
    durable: int


class SequenceRun(Answer):
    """Outputs of a whole sequence."""

    steps: int
    outputs: dict[str, list[Any]]


class Alternative(Answer):
    """A token that could have been drawn."""

    id: int
    logprob: float


class TokenShown(Answer):
    """A generated token."""

    id: int
    text: str
    seq: int
    logprob: float | None = None
    alternatives: list[Alternative] | None = None


class UsageShown(Answer):
    """The cost of a generation, in steps."""

    prompt_tokens: int
    generated_tokens: int
    applied: int


class Generated(Answer):
    """A whole generation."""

    text: str
    tokens: list[TokenShown]
    finish_reason: Literal["length", "stop"]
    usage: UsageShown


class Choice(Answer):
    """The one choice of a completion."""

    text: str
    index: int
    logprobs: None
    finish_reason: Literal["length", "stop"] | None


class CompletionUsage(Answer):
    """Tokens of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completed(Answer):
    """A completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage


class OpenAIModel(Answer):
    """A model that generates."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(Answer):
    """The models that generate."""

    object: Literal["list"]
    data: list[OpenAIModel]


class Problem(Answer):
    """Why a call was refused, as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    reason: str
    fix: str
    request_id: str
    metadata: dict[str, str]
    field: str | None = None
    seq: int | None = None
    retry_after_s: float | None = None
