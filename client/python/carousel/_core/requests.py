"""Requests made from a caller's arguments, the same for both clients."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from carousel._error_bases import CarouselError
from carousel._errors import FieldInvalidError, InputDtypeError
from carousel.types import WIRE_DURABILITIES, Durability, GenerateOptions
from carousel_protos.v1 import carousel_pb2 as pb

from .arguments import idle_seconds, unicode_of
from .array_inputs import array_of
from .blocks import duration
from .rows import ModelRows

Prompt = str | Sequence[int] | None

DEFAULT_MAX_TOKENS = 256


def new_session_id() -> str:
    """Chosen by the client, so that opening again after a lost reply opens nothing twice."""
    return f"py-{uuid.uuid4().hex}"


@contextmanager
def fields_in_range() -> Iterator[None]:
    """Numbers that the wire has no room for are the caller's mistake, by its name."""
    try:
        yield
    except CarouselError:
        raise
    except ValueError as error:
        raise FieldInvalidError(f"an argument is out of its range: {error}") from None


@fields_in_range()
def open_request(
    model: str,
    session_id: str | None,
    durability: Durability,
    idle_ttl_s: float | None,
    seed: int | None,
    initial: str = "",
) -> pb.OpenSessionRequest:
    """Opens a session."""
    request = pb.OpenSessionRequest(
        model=model,
        session_id=session_id or new_session_id(),
        durability=WIRE_DURABILITIES[Durability(durability)],
        seed=seed,
        initial=initial,
    )
    if idle_ttl_s is not None:
        request.idle_ttl.CopyFrom(duration(idle_seconds(idle_ttl_s)))
    return request


@fields_in_range()
def fork_request(source_id: str, session_id: str | None, seed: int | None) -> pb.ForkSessionRequest:
    """Opens a session with a copy of another's state."""
    return pb.ForkSessionRequest(
        session_id=source_id, new_session_id=session_id or new_session_id(), seed=seed
    )


def infer_request(rows: ModelRows, inputs: Any, initial: str = "") -> pb.InferRequest:
    """A whole sequence: a text for the server's tokenizer, bytes, token ids or feature rows."""
    request = pb.InferRequest(model=rows.name, initial=initial)
    if isinstance(inputs, str) and rows.tokenizer:
        request.text = unicode_of(inputs)
    else:
        request.inputs = rows.encode(inputs, None).tobytes()
    return request


_SAMPLING = tuple(field.name for field in pb.Sampling.DESCRIPTOR.fields)
"""Options of a generation that say how tokens are drawn."""


@fields_in_range()
def generate_request(
    prompt: Prompt, options: GenerateOptions, *, model: str = "", session_id: str = ""
) -> pb.GenerateRequest:
    """A generation in a session of its own (`model`) or in a given one (`session_id`).

    Raises:
        TypeError: an option is unknown.
        FieldInvalidError, InputDtypeError: an option, or the prompt, has a value that is refused.
    """
    for name in options:
        if name not in GenerateOptions.__annotations__:
            raise TypeError(f"generate() got an unexpected keyword argument {name!r}")
    max_tokens = options.get("max_tokens", DEFAULT_MAX_TOKENS)
    if max_tokens < 1:
        raise FieldInvalidError(f"max_tokens is {max_tokens}; it must be at least 1")
    stop = options.get("stop", ())
    sampling: dict[str, Any] = {name: options.get(name) for name in _SAMPLING}
    request = pb.GenerateRequest(
        sampling=pb.Sampling(**sampling),
        max_tokens=max_tokens,
        stop=[stop] if isinstance(stop, str) else stop,
        stop_tokens=_token_ids(list(options.get("stop_tokens", ())), "stop_tokens is"),
        logprobs=options.get("logprobs"),
        initial=options.get("initial", ""),
    )
    if session_id:
        request.session_id = session_id
    else:
        request.model = model
    if isinstance(prompt, str):
        request.text = unicode_of(prompt)
    elif prompt is not None:
        request.tokens.ids.extend(_token_ids(prompt, "a prompt is a text or"))
    return request


def _token_ids(tokens: Sequence[int], role: str) -> list[int]:
    ids = array_of(tokens, nested=1)
    if not ids.size:
        return []
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise InputDtypeError(f"{role} a flat sequence of integer token ids")
    return [int(i) for i in ids]
