"""Checks of request fields, at the door: before any tensor is made and before an engine hears of it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from carousel_protos.tensors import DATA_TYPES
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import NO_DEADLINE
from carousel_server.core.types import ModelView

from .errors import invalid

MAX_SEQ = (1 << 62) - 1
"""Greatest seq: engines count in int64, with room to add a window."""

MAX_TIMEOUT_S = 7 * 86_400.0
MAX_NAME_CHARACTERS = 256

SEQUENCE_PREFIX = "triton:"
"""Ids that begin so are those of Triton's sequences: their sessions are opened by that door only."""

_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def check_session_id(value: str, field: str = "session_id") -> str:
    """The id, if it is one.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    if not _SESSION_ID.fullmatch(value):
        raise invalid(field, "must be 1 to 128 characters of A-Z a-z 0-9 . _ : -")
    return value


def check_new_session_id(value: str, field: str = "session_id") -> str:
    """The id of a session that is to be opened; "" lets the engine choose.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    if value.startswith(SEQUENCE_PREFIX):
        raise invalid(field, f"must not begin with {SEQUENCE_PREFIX}, as sequences of Triton do")
    return check_session_id(value, field) if value else ""


def check_name(value: str, field: str) -> str:
    """A model's name: not empty and of sane length; whether it exists is the catalog's word.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    if not 0 < len(value) <= MAX_NAME_CHARACTERS:
        raise invalid(field, f"must be 1 to {MAX_NAME_CHARACTERS} characters")
    return value


def check_seq(value: int, field: str, least: int = 1) -> int:
    """A seq or a cursor.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    if not least <= value <= MAX_SEQ:
        raise invalid(field, f"must be from {least} to {MAX_SEQ}, but is {value}")
    return value


def check_seqs(values: Sequence[int], field: str, least: int = 1) -> list[int]:
    """Several seqs at once; see `check_seq`."""
    seqs = list(values)
    if seqs and not (least <= min(seqs) and max(seqs) <= MAX_SEQ):
        raise invalid(field, f"must each be from {least} to {MAX_SEQ}")
    return seqs


def check_dtype(model: ModelView, dtype: int) -> None:
    """The declared element type: unset, or the model's.

    Raises:
        CarouselError: INPUT_DTYPE.
    """
    if dtype and dtype != DATA_TYPES[model.input.dtype]:
        raise CarouselError(
            "INPUT_DTYPE",
            f"model {model.name!r} takes {model.input.dtype}, not data type {dtype}",
            metadata={"model": model.name, "expected": model.input.dtype},
            field="dtype",
        )


def count_rows(model: ModelView, inputs: bytes) -> int:
    """Rows in `inputs`.

    Raises:
        CarouselError: INPUT_SHAPE if that is no whole number.
    """
    steps, rest = divmod(len(inputs), model.input_row_bytes)
    if rest:
        raise shape_error(model, f"{len(inputs)} bytes are no whole number of rows")
    return steps


def check_resets(resets: bytes, steps: int) -> bytes:
    """Which of `steps` steps start from the initial state; empty if none does.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    if not resets:
        return b""
    if len(resets) != steps:
        raise invalid("resets", f"must have {steps} bytes, one per step, or none")
    marked = resets.count(1)
    if marked + resets.count(0) != steps:
        raise invalid("resets", "must each be 0 or 1")
    return resets if marked else b""


def shape_error(model: ModelView, what: str) -> CarouselError:
    """INPUT_SHAPE, with the row that the model takes."""
    row = model.input
    return CarouselError(
        "INPUT_SHAPE",
        f"{what}: one row of {model.name} is {row.dtype}{list(row.shape)}, {row.row_bytes} bytes",
        metadata={"model": model.name, "row_bytes": row.row_bytes},
        field="inputs",
    )


def check_reply_bytes(reply_bytes: int, max_message_bytes: int) -> None:
    """Refuses what would run, and then fail because the client refuses so large a reply.

    Raises:
        CarouselError: MESSAGE_TOO_LARGE.
    """
    if reply_bytes > max_message_bytes:
        raise CarouselError(
            "MESSAGE_TOO_LARGE",
            f"the reply would be {reply_bytes} bytes; at most {max_message_bytes} are sent",
            metadata={"limit": max_message_bytes, "bytes": reply_bytes},
        )


def seconds_of(duration: Duration, field: str, most: float) -> float:
    """A duration in seconds, above 0.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    seconds = duration.seconds + duration.nanos * 1e-9
    if not 0.0 < seconds <= most:
        raise invalid(field, f"must be above 0 and at most {most:g} seconds, but is {seconds:g}")
    return seconds


def deadline_after(timeout_s: float | None) -> float:
    """The instant of the engine's clock (time.monotonic) at which a time from now runs out."""
    if timeout_s is None or not math.isfinite(timeout_s) or timeout_s > MAX_TIMEOUT_S:
        return NO_DEADLINE
    return time.monotonic() + timeout_s
