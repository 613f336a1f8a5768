"""Parameters of an inference request: which sequence, where in it, until when."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import NO_DEADLINE
from carousel_server.core.types import Durability
from carousel_server.wire.fields import SEQUENCE_PREFIX, deadline_after

SequenceId = int | str

MAX_ID_CHARACTERS = 128

_MODEL_CHARACTERS = 64
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,48}")

UINT64 = (1 << 64) - 1
_DURABILITIES = {
    "": Durability.UNSPECIFIED,
    "none": Durability.NONE,
    "async": Durability.ASYNC,
    "sync": Durability.SYNC,
    "sync+fsync": Durability.SYNC_FSYNC,
}


class Beginning(NamedTuple):
    """What a START asks of its session. Both are ours.

    Attributes:
        durability: what of the sequence survives the server.
        initial: name of the initial state; "" is the default.
    """

    durability: Durability = Durability.UNSPECIFIED
    initial: str = ""


DEFAULT_BEGINNING = Beginning()


class Parameters(NamedTuple):
    """What the door heeds. `sequence_id` 0 or "" means: none."""

    sequence_id: SequenceId = 0
    start: bool = False
    end: bool = False
    deadline_s: float = NO_DEADLINE
    beginning: Beginning = DEFAULT_BEGINNING


def parameters_of(request: pb.ModelInferRequest) -> Parameters:
    """Reads and checks them; what is unknown is left alone, as Triton does.

    Raises:
        CarouselError: FIELD_INVALID, in Triton's words.
    """
    sequence_id: SequenceId = 0
    start = end = False
    initial = ""
    deadline_s, durability = NO_DEADLINE, Durability.UNSPECIFIED
    given = request.parameters
    for name in given:
        match name:
            case "sequence_id":
                sequence_id = _sequence_id(given[name])
            case "sequence_start":
                start = _flag(name, given[name])
            case "sequence_end":
                end = _flag(name, given[name])
            case "timeout":
                deadline_s = _deadline(given[name])
            case "priority":
                _check_priority(given[name])
            case "durability":
                durability = _durability(given[name])
            case "initial":
                initial = _text(name, given[name])
            case "triton_enable_empty_final_response":
                _flag(name, given[name])  # every reply here is final, so there is no empty one
    return Parameters(sequence_id, start, end, deadline_s, Beginning(durability, initial))


def _sequence_id(value: pb.InferParameter) -> SequenceId:
    kind = value.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return value.int64_param & UINT64
    if kind == "uint64_param":
        return value.uint64_param
    if kind == "string_param":
        if len(value.string_param) > MAX_ID_CHARACTERS:
            most = f"must have at most {MAX_ID_CHARACTERS} characters"
            raise _invalid("sequence_id", f"value for 'sequence_id' {most}")
        return value.string_param
    raise _wrong_type("sequence_id", "int64_param or string_param")


def _text(name: str, value: pb.InferParameter) -> str:
    if value.WhichOneof("parameter_choice") != "string_param":
        raise _wrong_type(name, "string_param")
    return value.string_param


def _flag(name: str, value: pb.InferParameter) -> bool:
    if value.WhichOneof("parameter_choice") != "bool_param":
        raise _wrong_type(name, "bool_param")
    return value.bool_param


def _deadline(value: pb.InferParameter) -> float:
    """Microseconds from now; 0 and less mean none, as in Triton."""
    kind = value.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise _wrong_type("timeout", "int64_param")
    microseconds: int = getattr(value, kind)
    return deadline_after(microseconds * 1e-6) if microseconds > 0 else NO_DEADLINE


def _check_priority(value: pb.InferParameter) -> None:
    """All sequences are served round robin here, so a priority is checked and has no effect."""
    kind = value.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise _wrong_type("priority", "int64_param or uint64_param")
    if getattr(value, kind) < 0:
        raise _invalid("priority", "invalid value for 'priority', expected value >= 0")


def _durability(value: pb.InferParameter) -> Durability:
    found = None
    if value.WhichOneof("parameter_choice") == "string_param":
        found = _DURABILITIES.get(value.string_param)
    if found is None:
        wanted = ", ".join(name for name in _DURABILITIES if name)
        raise _invalid("durability", f"invalid value for 'durability', expected one of {wanted}")
    return found


def _wrong_type(name: str, expected: str) -> CarouselError:
    return _invalid(name, f"invalid value type for '{name}' parameter, expected {expected}")


def _invalid(name: str, message: str) -> CarouselError:
    return CarouselError("FIELD_INVALID", message, field=f"parameters[{name}]")


def session_id(model: str, sequence_id: SequenceId) -> str:
    """The id of the session that is a sequence of a model.

    `triton:<model>:<number>` or `triton:<model>:s:<text>`, which anybody can name in `carousel sessions`;
    texts that are long or have other characters than a session id may have stand as `h:` and a hash.
    Nobody else opens, imports or forks a session of such an id; all else can be done with it.
    """
    head = f"{SEQUENCE_PREFIX}{model[:_MODEL_CHARACTERS]}:"
    if isinstance(sequence_id, int):
        return f"{head}{sequence_id}"
    if _PLAIN_ID.fullmatch(sequence_id):
        return f"{head}s:{sequence_id}"
    digest = hashlib.sha256(sequence_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{head}h:{digest[:48]}"
