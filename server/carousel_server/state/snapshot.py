"""One session as bytes: header, state tensors, steps not yet acknowledged, checksum.

Layout, little-endian: magic "CRSL" | version u16 | header length u32 | header (JSON) | tensors in the
header's order, raw | kept inputs | kept outputs | BLAKE2b-128 of all before. A reader refuses what it
does not know; it never guesses.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Bytes2D

MAGIC = b"CRSL"
VERSION = 1
_PREFIX = struct.Struct("<4sHI")
_DIGEST_BYTES = 16
_MAX_HEADER_BYTES = 1 << 20


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


class _Tensor(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(max_length=256)
    shape: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(max_length=8)
    dtype: Literal["<f4", "<i4", "<i8", "<u2"]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class _Header(BaseModel):
    """What precedes the raw parts; checked field by field, since it comes from outside."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str = Field(max_length=256)
    fingerprint: str = Field(max_length=128)
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


def encode(snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot; `decode` gives it back."""
    header = _Header(
        model=snapshot.model,
        fingerprint=snapshot.fingerprint,
        epoch=snapshot.epoch,
        applied=snapshot.applied,
        ack=snapshot.ack,
        seed=snapshot.seed,
        next_token=snapshot.next_token,
        idle_ttl_s=snapshot.idle_ttl_s,
        recent_tokens=list(snapshot.recent_tokens),
        tensors=[
            _Tensor.model_validate({"name": n, "shape": list(a.shape), "dtype": a.dtype.str})
            for n, a in snapshot.state.items()
        ],
        input_row_bytes=snapshot.kept_inputs.shape[1],
        output_row_bytes=snapshot.kept_outputs.shape[1],
    )
    text = header.model_dump_json().encode()
    parts = [_PREFIX.pack(MAGIC, VERSION, len(text)), text]
    parts += [a.tobytes() for a in snapshot.state.values()]
    parts += [snapshot.kept_inputs.tobytes(), snapshot.kept_outputs.tobytes()]
    body = b"".join(parts)
    return body + _digest(body)


def decode(data: bytes) -> Snapshot:
    """Reads a snapshot.

    Raises:
        CarouselError: SNAPSHOT_INVALID: no snapshot, damaged, or of an unknown version.
    """
    if len(data) < _PREFIX.size + _DIGEST_BYTES or data[:4] != MAGIC:
        raise _invalid("the bytes are no Carousel snapshot")
    _, version, header_bytes = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise _invalid(f"version {version} is unknown here; this server reads version {VERSION}")
    body = data[:-_DIGEST_BYTES]
    if data[-_DIGEST_BYTES:] != _digest(body):
        raise _invalid("the checksum does not match: bytes were lost or changed")
    if header_bytes > min(_MAX_HEADER_BYTES, len(body) - _PREFIX.size):
        raise _invalid("the header's length is out of range")
    start = _PREFIX.size + header_bytes
    try:
        header = _Header.model_validate_json(body[_PREFIX.size : start])
    except (ValidationError, json.JSONDecodeError) as error:
        raise _invalid("the header cannot be read") from error
    return _assemble(header, body[start:])


def _assemble(header: _Header, raw: bytes) -> Snapshot:
    """Cuts the raw part into tensors and kept outputs."""
    kept_rows = header.applied - header.ack
    if kept_rows < 0 or sum(t.size_bytes for t in header.tensors) + kept_rows * (
        header.input_row_bytes + header.output_row_bytes
    ) != len(raw):
        raise _invalid("its parts do not add up to its length")
    state, at = {}, 0
    for tensor in header.tensors:
        part = raw[at : at + tensor.size_bytes]
        state[tensor.name] = np.frombuffer(part, tensor.dtype).reshape(tensor.shape)
        at += tensor.size_bytes
    kept = np.frombuffer(raw, np.uint8, offset=at)
    kept_inputs, kept_outputs = np.split(kept, [kept_rows * header.input_row_bytes])
    return Snapshot(
        model=header.model,
        fingerprint=header.fingerprint,
        epoch=header.epoch,
        applied=header.applied,
        ack=header.ack,
        seed=header.seed,
        next_token=header.next_token,
        idle_ttl_s=header.idle_ttl_s,
        state=state,
        recent_tokens=tuple(header.recent_tokens),
        kept_inputs=kept_inputs.reshape(kept_rows, header.input_row_bytes),
        kept_outputs=kept_outputs.reshape(kept_rows, header.output_row_bytes),
    )


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _invalid(why: str) -> CarouselError:
    return CarouselError("SNAPSHOT_INVALID", f"cannot read the snapshot: {why}", field="snapshot")
