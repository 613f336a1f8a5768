"""One session as bytes: header, state tensors, steps not yet acknowledged, generation, checksum.

Layout, little-endian: magic "CRSL" | version u16 | header length u32 | header (JSON) | tensors in the
header's order, raw | kept inputs | kept outputs | generated tokens: ids int32[n], log-probabilities
float32[n], ids int32[n, k] and log-probabilities float32[n, k] of the alternatives | BLAKE2b-128 of all
before. A reader refuses what it does not know; it never guesses. Versions: 1 had no generation, attach_id
and execution_class; it is not read any more, since no release wrote it. 2 had no `context` in its
generation; it is read as an empty one. 3 had no `resets` and no `initial`; it is read as none, and as the
default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from hashlib import blake2b
from itertools import pairwise
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carousel_server.core.errors import CarouselError
from carousel_server.core.snapshot_header import MAGIC, PREFIX
from carousel_server.core.types import Bytes2D

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

VERSION = 4
_OLDEST_VERSION = 2
_WITHOUT_CONTEXT = 2
_WITHOUT_RESETS_AND_INITIAL = 3
_DIGEST_BYTES = 16
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class KeptGeneration:
    """The generation that ran last in a session, so that it can be sent again and continued.

    Attributes:
        base: the session's last step before it; its prompt ran from base + 1 on.
        carry: the token drawn before it and fed by it first; -1 if none.
        prompt_tokens: how many tokens it fed before the first draw, `carry` included.
        digest: of the request; another request is another generation.
        context: the last tokens that were fed up to step `base`; the text depends on them.
        finish: as in carousel.proto; 0 while it goes on.
        ids: int32[n], the tokens drawn.
        logprobs: float32[n], NaN where they were not asked for.
        alternative_ids, alternative_logprobs: [n, k]; k is 0 where they were not asked for.
    """

    base: int
    carry: int
    prompt_tokens: int
    digest: str
    context: tuple[int, ...]
    finish: int
    ids: np.ndarray
    logprobs: np.ndarray
    alternative_ids: np.ndarray
    alternative_logprobs: np.ndarray


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session between two steps.

    Attributes:
        model: name of the model it ran on.
        fingerprint: hash of the weights that the state belongs to.
        epoch: of the activation that it was taken in.
        applied, ack: the cursors; ack+1 … applied are kept, so that a lost reply can be had again and
            a repeated step can be told from a reused seq.
        seed: of the session's random numbers.
        next_token: token drawn but not fed yet; -1 if none.
        idle_ttl_s: as chosen at open.
        state: arrays by state name, each of the spec's shape; bfloat16 as the bits in uint16.
        recent_tokens: int32[n], last tokens for the repetition penalty, oldest first.
        kept_inputs: uint8[applied - ack, input_row_bytes].
        kept_outputs: uint8[applied - ack, output_row_bytes].
        attach_id: highest that the session was bound with.
        execution_class: how the steps were computed.
        initial: name of the initial state that the session began with; "" for the default.
        resets: seqs of the kept steps that started from the initial state, ascending.
        generation: the last one, if it can still be asked for.
    """

    model: str
    fingerprint: str
    epoch: int
    applied: int
    ack: int
    seed: int
    next_token: int
    idle_ttl_s: float
    state: dict[str, np.ndarray]
    recent_tokens: tuple[int, ...]
    kept_inputs: Bytes2D
    kept_outputs: Bytes2D
    attach_id: int = 0
    execution_class: str = ""
    initial: str = ""
    resets: tuple[int, ...] = ()
    generation: KeptGeneration | None = None


class _Tensor(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(max_length=256)
    shape: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(max_length=8)
    dtype: Literal["<f2", "<f4", "<f8", "<u2", "<i4", "<i8", "|b1", "<c8"]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class _Generation(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    base: int = Field(ge=0, lt=1 << 62)
    carry: int = Field(ge=-1, lt=1 << 31)
    prompt_tokens: int = Field(ge=1, lt=1 << 31)
    digest: str = Field(max_length=64)
    context: list[Annotated[int, Field(ge=0, lt=1 << 31)]] | None = Field(None, max_length=64)
    finish: Literal[0, 1, 2]
    drawn: int = Field(ge=0, lt=1 << 31)
    alternatives: int = Field(ge=0, lt=1 << 16)

    @property
    def size_bytes(self) -> int:
        return self.drawn * 8 * (1 + self.alternatives)


class _Header(BaseModel):
    """What precedes the raw parts; checked field by field, since it comes from outside."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str = Field(max_length=256)
    fingerprint: str = Field(max_length=128)
    initial: str | None = Field(None, max_length=64)
    epoch: int = Field(ge=0, lt=1 << 62)
    applied: int = Field(ge=0, lt=1 << 62)
    ack: int = Field(ge=0, lt=1 << 62)
    seed: int = Field(ge=0, lt=1 << 64)
    next_token: int = Field(ge=-1, lt=1 << 31)
    idle_ttl_s: float = Field(gt=0, allow_inf_nan=False)
    recent_tokens: list[int] = Field(max_length=4096)
    tensors: list[_Tensor] = Field(max_length=4096)
    input_row_bytes: int = Field(ge=1, lt=1 << 31)
    output_row_bytes: int = Field(ge=1, lt=1 << 31)
    attach_id: int = Field(ge=0, lt=1 << 64)
    execution_class: str = Field(max_length=256)
    resets: list[int] | None = None
    generation: _Generation | None


def _shared(value: type[DataclassInstance], header: type[BaseModel], *apart: str) -> list[str]:
    """Fields that a header holds as the value has them, in the header's order."""
    named = {field.name for field in fields(value)} - set(apart)
    return [name for name in header.model_fields if name in named]


_PLAIN = _shared(Snapshot, _Header, "generation")
_plain = attrgetter(*_PLAIN)
_IN_ORDER: dict[str, object] = dict.fromkeys(_Header.model_fields)
_PLAIN_OF_GENERATION = _shared(KeptGeneration, _Generation)


def encode(snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot; `decode` gives it back."""
    run = snapshot.generation
    header = _IN_ORDER | dict(zip(_PLAIN, _plain(snapshot), strict=True))
    header["tensors"] = [
        {"name": name, "shape": array.shape, "dtype": array.dtype.str}
        for name, array in snapshot.state.items()
    ]
    header["input_row_bytes"] = snapshot.kept_inputs.shape[1]
    header["output_row_bytes"] = snapshot.kept_outputs.shape[1]
    header["generation"] = None if run is None else _generation_header(run)
    text = json.dumps(header, separators=(",", ":")).encode()
    parts = [PREFIX.pack(MAGIC, VERSION, len(text)), text]
    parts += [array.tobytes() for array in snapshot.state.values()]
    parts += [snapshot.kept_inputs.tobytes(), snapshot.kept_outputs.tobytes()]
    if run is not None:
        parts += [column.tobytes() for column in _columns(run)]
    body = b"".join(parts)
    return body + _digest(body)


def _generation_header(run: KeptGeneration) -> dict[str, object]:
    counts = {"drawn": len(run.ids), "alternatives": run.alternative_ids.shape[1]}
    return {name: getattr(run, name) for name in _PLAIN_OF_GENERATION} | counts


def _columns(run: KeptGeneration) -> Iterator[np.ndarray]:
    """The arrays of a generation in the order of the layout."""
    yield np.asarray(run.ids, "<i4")
    yield np.asarray(run.logprobs, "<f4")
    yield np.asarray(run.alternative_ids, "<i4")
    yield np.asarray(run.alternative_logprobs, "<f4")


def decode(data: bytes) -> Snapshot:
    """Reads a snapshot.

    Raises:
        CarouselError: SNAPSHOT_INVALID: no snapshot, damaged, or of an unknown version.
    """
    if len(data) < PREFIX.size + _DIGEST_BYTES or data[:4] != MAGIC:
        raise _invalid("the bytes are no Carousel snapshot")
    _, version, header_bytes = PREFIX.unpack_from(data)
    if not _OLDEST_VERSION <= version <= VERSION:
        raise _invalid(
            f"version {version} is unknown here; this server reads versions {_OLDEST_VERSION} to {VERSION}"
        )
    body = data[:-_DIGEST_BYTES]
    if data[-_DIGEST_BYTES:] != _digest(body):
        raise _invalid("the checksum does not match: bytes were lost or changed")
    if header_bytes > min(_MAX_HEADER_BYTES, len(body) - PREFIX.size):
        raise _invalid("the header's length is out of range")
    start = PREFIX.size + header_bytes
    try:
        header = _Header.model_validate_json(body[PREFIX.size : start])
    except (ValidationError, json.JSONDecodeError) as error:
        raise _invalid("the header cannot be read") from error
    run = header.generation
    if run is not None and (run.context is None) != (version <= _WITHOUT_CONTEXT):
        raise _invalid(f"its generation is not one of version {version}")
    old = version <= _WITHOUT_RESETS_AND_INITIAL
    if (header.resets is None) != old or (header.initial is None) != old:
        raise _invalid(f"its header is not one of version {version}")
    return _assemble(header, body[start:])


def _assemble(header: _Header, raw: bytes) -> Snapshot:
    """Cuts the raw part into tensors, kept steps and the generation."""
    kept_rows, run = header.applied - header.ack, header.generation
    sizes = [
        *(tensor.size_bytes for tensor in header.tensors),
        kept_rows * header.input_row_bytes,
        kept_rows * header.output_row_bytes,
        run.size_bytes if run else 0,
    ]
    if kept_rows < 0 or sum(sizes) != len(raw):
        raise _invalid("its parts do not add up to its length")
    resets = tuple(header.resets or ())
    if any(a >= b for a, b in pairwise((header.ack, *resets, header.applied + 1))):
        raise _invalid("its resets are not in the order of its kept steps")
    parts, at = [], 0
    for size in sizes:
        parts.append(raw[at : at + size])
        at += size
    plain = {name: getattr(header, name) for name in _PLAIN}
    plain |= {"recent_tokens": tuple(header.recent_tokens), "resets": resets}
    plain["initial"] = header.initial or ""
    return Snapshot(
        **plain,
        state={
            tensor.name: np.frombuffer(part, tensor.dtype).reshape(tensor.shape)
            for tensor, part in zip(header.tensors, parts, strict=False)
        },
        kept_inputs=np.frombuffer(parts[-3], np.uint8).reshape(kept_rows, header.input_row_bytes),
        kept_outputs=np.frombuffer(parts[-2], np.uint8).reshape(kept_rows, header.output_row_bytes),
        generation=None if run is None else _generation(run, parts[-1]),
    )


def _generation(run: _Generation, raw: bytes) -> KeptGeneration:
    n, k = run.drawn, run.alternatives
    ids, logprobs, others = np.split(np.frombuffer(raw, "<i4"), [n, 2 * n])
    plain = {name: getattr(run, name) for name in _PLAIN_OF_GENERATION}
    plain["context"] = tuple(run.context or ())
    return KeptGeneration(
        **plain,
        ids=ids,
        logprobs=logprobs.view("<f4"),
        alternative_ids=others[: n * k].reshape(n, k),
        alternative_logprobs=others[n * k :].view("<f4").reshape(n, k),
    )


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _invalid(why: str) -> CarouselError:
    return CarouselError("SNAPSHOT_INVALID", f"cannot read the snapshot: {why}", field="snapshot")
