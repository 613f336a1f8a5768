"""Objects of requests, as pydantic models. What a field may hold beyond its type, the methods check."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

UInt32 = Annotated[int, Field(ge=0, lt=1 << 32)]
UInt64 = Annotated[int, Field(ge=0, lt=1 << 64)]
Int32 = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]


class Body(BaseModel):
    """An object of a request. It has no fields but the declared ones."""

    model_config = ConfigDict(extra="forbid")


class Page(Body):
    """Which page of a list."""

    page_size: UInt32 = Field(0, description="Most entries; 100 if 0; at most 1000.")
    page_token: str = Field("", description="next_page_token of the answer before.")


class SessionPage(Page):
    """Which sessions."""

    model: str = Field("", description="Only sessions of this model.")


class OpenSession(Body):
    """A new session."""

    session_id: str = Field("", description="The session's id; chosen by the server if empty.")
    durability: Literal["default", "none", "async", "sync", "sync+fsync"] = Field(
        "default", description="What survives the death of the server."
    )
    idle_ttl_s: float | None = Field(
        None,
        gt=0,
        le=366 * 86_400,
        description="Idle time after which the session expires, in seconds.",
    )
    seed: UInt64 | None = Field(None, description="Seed of the session's random numbers.")
    initial: str = Field("", description="Name of the initial state.")


class ForkSession(Body):
    """A copy of a session."""

    new_session_id: str = Field("", description="The new session's id.")
    seed: UInt64 | None = Field(None, description="Seed of the new session.")


class Steps(Body):
    """Consecutive steps of one session."""

    first_seq: UInt64 = Field(
        description="Number of the first step; the first of a session is 1. A repeated call with the same "
        "number and inputs gets the same outputs and runs no step."
    )
    inputs: list[Any] = Field(description="Input rows: nested lists of shape [steps, *row].")
    ack: UInt64 = Field(0, description="Last step whose output was received.")
    resets: list[bool] = Field(
        default_factory=list,
        description="Steps that start from the initial state, one value for each step, or none.",
    )


class RawSteps(Body):
    """Steps whose rows are the bytes of the body."""

    first_seq: UInt64 = Field(description="Number of the first step.")
    ack: UInt64 = Field(0, description="Last step whose output was received.")
    resets: str = Field(
        "", pattern="^[01]*$", description="A 0 or 1 for each step; 1 is a reset. Empty is none."
    )


class Sequence(Body):
    """A whole sequence: rows, or a text."""

    inputs: list[Any] | None = Field(None, description="Input rows of shape [steps, *row].")
    text: str | None = Field(None, description="A text, for a model with a tokenizer.")
    initial: str = Field("", description="Name of the initial state.")


class RawSequence(Body):
    """A sequence whose rows are the bytes of the body."""

    initial: str = Field("", description="Name of the initial state.")


class Generation(Body):
    """A prompt, and how to continue it."""

    prompt: str | None = Field(None, description="A text, for a model with a tokenizer.")
    tokens: list[Int32] | None = Field(None, description="Token ids in place of a text.")
    max_tokens: UInt32 = Field(128, description="Most tokens to generate, at least 1.")
    temperature: float | None = Field(None, description="Divides the logits; 0 is greedy.")
    top_k: UInt32 = Field(0, description="Keep so many tokens; 0 keeps all.")
    top_p: float | None = Field(None, description="Keep the smallest set of this probability.")
    repetition_penalty: float | None = Field(None, description="1 changes nothing.")
    seed: UInt64 | None = Field(None, description="The same seed repeats a text.")
    stop: list[str] = Field(default_factory=list, description="Texts that end the generation.")
    stop_tokens: list[Int32] = Field(default_factory=list, description="Tokens that end it.")
    logprobs: UInt32 | None = Field(None, description="Alternatives to report for each token.")
    first_seq: UInt64 = Field(
        0, description="Number of the first step, for a session. With it the call can be repeated."
    )
    reset: bool = Field(False, description="Start from the session's initial state.")
    initial: str = Field("", description="Name of the initial state, without a session.")
    stream: bool = Field(False, description="Answer with server-sent events.")
