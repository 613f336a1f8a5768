"""Requests and answers of Triton's protocol over HTTP: JSON, with tensors in it or as bytes behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire.errors import invalid
from carousel_server.wire.triton.tensors import NUMPY

HEAD = "inference-header-content-length"
"""Header with the bytes of JSON, where tensors follow as bytes."""

_OF_HTTP = frozenset({"binary_data", "binary_data_size", "binary_data_output"})
"""Parameters that say how tensors travel in HTTP."""


def split(body: bytes, head: str | None) -> tuple[dict[str, Any], bytes]:
    """The object of a request, and the bytes behind it.

    Raises:
        CarouselError: MALFORMED_MESSAGE or FIELD_INVALID.
    """
    size = len(body)
    if head is not None:
        if not head.isdecimal() or int(head) > size:
            raise invalid(HEAD, f"must be a number of bytes of the body, which has {size}")
        size = int(head)
    try:
        shown = json.loads(body[:size])
    except (ValueError, RecursionError):
        raise CarouselError("MALFORMED_MESSAGE", "the body is no JSON") from None
    if not isinstance(shown, dict):
        raise CarouselError("MALFORMED_MESSAGE", "the body is no JSON object")
    return shown, body[size:]


def infer_request(
    model: str, version: str, shown: dict[str, Any], raw: bytes
) -> pb.ModelInferRequest:
    """The message of a request.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    request = pb.ModelInferRequest(
        model_name=model, model_version=version, id=_text(shown.get("id", ""), "id")
    )
    for name, value in _table(shown, "parameters").items():
        if name not in _OF_HTTP:
            _set(request.parameters[name], name, value)
    at = 0
    for given in _list(shown, "inputs"):
        tensor = request.inputs.add(
            name=_text(given.get("name", ""), "name"),
            datatype=_text(given.get("datatype", ""), "datatype"),
        )
        try:
            tensor.shape.extend(given.get("shape", ()))
        except (TypeError, ValueError):
            raise invalid("shape", "must be a list of numbers") from None
        size = _table(given, "parameters").get("binary_data_size")
        if size is None:
            request.raw_input_contents.append(_bytes_of(given, tensor.datatype))
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - at:
            raise invalid("binary_data_size", "must fit the bytes behind the JSON")
        request.raw_input_contents.append(raw[at : at + size])
        at += size
    if at != len(raw):
        raise invalid("binary_data_size", f"{len(raw) - at} bytes behind the JSON are of no input")
    for wanted in _list(shown, "outputs"):
        request.outputs.add(name=_text(wanted.get("name", ""), "name"))
    return request


def infer_answer(shown: dict[str, Any], reply: pb.ModelInferResponse) -> tuple[bytes, int | None]:
    """The body of an answer, and the bytes of JSON in it if tensors follow as bytes."""
    default = _table(shown, "parameters").get("binary_data_output") is True
    binary = {
        wanted.get("name"): _table(wanted, "parameters").get("binary_data", default) is True
        for wanted in _list(shown, "outputs")
    }
    outputs, behind = [], []
    for tensor, data in zip(reply.outputs, reply.raw_output_contents, strict=True):
        output: dict[str, Any] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape),
        }  # fmt: skip
        if binary.get(tensor.name, default):
            output["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
        else:
            output["data"] = np.frombuffer(data, NUMPY[tensor.datatype]).tolist()
        outputs.append(output)
    answer = {"model_name": reply.model_name, "model_version": reply.model_version}
    head = json.dumps({**answer, **({"id": reply.id} if reply.id else {}), "outputs": outputs})
    encoded = head.encode()
    return b"".join((encoded, *behind)), len(encoded) if behind else None


def _bytes_of(given: Mapping[str, Any], datatype: str) -> bytes:
    """The numbers of a tensor in JSON. A datatype that is unknown here is the method's to refuse."""
    kind = NUMPY.get(datatype)
    if kind is None:
        return b""
    try:
        array = np.asarray(given.get("data", ()))
    except (ValueError, OverflowError):
        raise invalid("data", "must be numbers in lists of equal length") from None
    target = np.dtype(kind)
    if array.size and array.dtype.kind not in ("iuf" if target.kind == "f" else "iu"):
        raise invalid("data", f"must be numbers of type {datatype}")
    if target.kind == "i" and array.size:
        bounds = np.iinfo(target)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise invalid("data", f"must be numbers of type {datatype}")
    with np.errstate(over="ignore"):
        return array.astype(target).tobytes()


def _set(parameter: pb.InferParameter, name: str, value: Any) -> None:
    match value:
        case bool():
            parameter.bool_param = value
        case int() if -(1 << 63) <= value < 1 << 63:
            parameter.int64_param = value
        case int() if 0 <= value < 1 << 64:
            parameter.uint64_param = value
        case float():
            parameter.double_param = value
        case str():
            parameter.string_param = value
        case _:
            raise invalid(f"parameters[{name[:64]}]", "must be a bool, a number or a text")


def _table(shown: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = shown.get(name) or {}
    if not isinstance(value, dict):
        raise invalid(name, "must be an object")
    return value


def _list(shown: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = shown.get(name) or []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise invalid(name, "must be a list of objects")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise invalid(name, "must be a text")
    return value
