"""Replies as bytes: all but id and numbers of a ModelInferResponse is the same for every request."""

from __future__ import annotations

import numpy as np

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError

from .tensors import NUMPY, Tensor, Tensors

VERSION = "1"
"""The one version that every model has here."""

_ID, _RAW = b"\x1a", b"\x32"
"""Tags of ModelInferResponse: id = 3 and raw_output_contents = 6, both of wire type 2 (bytes)."""

_MOST_HEADS = 256
"""Ids of fewer bytes have their heads remembered."""

_RESPONSE = b"\x12"
"""Tag of ModelStreamInferResponse: infer_response = 2."""


class ReplyForm:
    """Writes replies with given outputs of one model. The order of fields in a message is free.

    The constant part, a stream's `triton_final_response` included, is serialized once; what remains is
    to join a few byte strings, a tenth of the work of filling in messages.
    """

    def __init__(self, tensors: Tensors, places: tuple[int, ...], *, streamed: bool) -> None:
        outputs = tensors.outputs
        starts = np.cumsum([0, *(tensor.row_bytes for tensor in outputs)]).tolist()
        self._parts = [(starts[p], starts[p + 1], outputs[p]) for p in places]
        self._plain = len(places) == len(outputs) == 1 and not outputs[0].is_converted
        constant = pb.ModelInferResponse(model_name=tensors.model.name, model_version=VERSION)
        if streamed:
            constant.parameters["triton_final_response"].bool_param = True
        for place in places:
            tensor = outputs[place]
            constant.outputs.add(
                name=tensor.name, datatype=tensor.datatype, shape=[1, *tensor.dims]
            )
        self._streamed = streamed
        self._constant = constant.SerializeToString()
        # What stands before an id of so many bytes, and between it and the numbers.
        self._heads: dict[int, bytes] = {}
        if self._plain:
            self._raw_head = _RAW + varint(outputs[0].row_bytes)
            self._fixed_bytes = len(self._constant) + len(self._raw_head) + outputs[0].row_bytes

    def write(self, request_id: bytes, row: bytes) -> bytes:
        """The serialized reply. `row` is one output row as the engine gives it.

        Raises:
            CarouselError: STEP_FAILED if an output is no number of the promised datatype.
        """
        if self._plain:
            size = len(request_id)
            head = self._heads.get(size) or self._head(size)
            return b"".join((head, request_id, self._raw_head, row))
        name = _name(len(request_id)) + request_id
        pieces = [self._constant, name]
        for start, end, tensor in self._parts:
            data = converted(tensor, row[start:end])
            pieces += (_RAW, varint(len(data)), data)
        body = b"".join(pieces)
        return _RESPONSE + varint(len(body)) + body if self._streamed else body

    def _head(self, size: int) -> bytes:
        """What stands before an id of so many bytes."""
        head = self._constant + _name(size)
        if self._streamed:
            head = (
                _RESPONSE
                + varint(self._fixed_bytes + len(head) - len(self._constant) + size)
                + head
            )
        if size < _MOST_HEADS:
            self._heads[size] = head
        return head


def _name(size: int) -> bytes:
    """The head of an id of so many bytes."""
    return _ID + varint(size) if size else b""


def stream_error(request_id: str, text: str) -> bytes:
    """The serialized reply of a stream to a request that failed."""
    reply = pb.ModelStreamInferResponse(error_message=text)
    reply.infer_response.id = request_id
    return reply.SerializeToString()


def converted(tensor: Tensor, data: bytes) -> bytes:
    """A field in the datatype that Triton's clients expect; floats are rounded to integers."""
    if not tensor.is_converted:
        return data
    values = np.frombuffer(data, tensor.dtype)
    target = np.dtype(NUMPY[tensor.datatype])
    if tensor.dtype == "<f4":
        limits = np.iinfo(target)
        values = np.rint(values.astype(np.float64))
        if not ((values >= limits.min) & (values <= limits.max)).all():
            raise CarouselError(
                "STEP_FAILED", f"output '{tensor.name}' is no number of type {tensor.datatype}"
            )
    return values.astype(target).tobytes()


def varint(value: int) -> bytes:
    """A length as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
