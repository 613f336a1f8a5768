"""A model's rows as Triton's tensors: names, datatypes, shapes, and requests that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import ModelView, TensorField, TritonTensor

NUMPY = {"FP32": "<f4", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"}
"""Datatypes that the door speaks."""

_OWN = {"<f4": "FP32", "<i4": "INT32", "<i2": "INT16"}
_SHOWN = 64
"""Characters of a client's own words that an error repeats: it travels in a header of 16 KiB."""

_CONTENTS = {
    "FP32": "fp32_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
}


class Tensor(NamedTuple):
    """One field of a row, as Triton's clients see it; `dtype` is the field's own."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    dtype: str

    @property
    def is_converted(self) -> bool:
        """True if the datatype is another than the field's own."""
        return NUMPY[self.datatype] != self.dtype

    @property
    def wire_bytes(self) -> int:
        """Bytes of one row as it travels."""
        return prod(self.dims) * int(np.dtype(NUMPY[self.datatype]).itemsize)

    @property
    def row_bytes(self) -> int:
        """Bytes of the field in one row of ours."""
        return prod(self.dims) * int(np.dtype(self.dtype).itemsize)


class Tensors:
    """One model's input and outputs in Triton's words."""

    def __init__(self, model: ModelView) -> None:
        self.model = model
        self.input = _tensor(model.input, model.triton_input)
        names = model.triton_outputs or (None,) * len(model.outputs)
        self.outputs = tuple(map(_tensor, model.outputs, names))
        self._wire_bytes = self.input.wire_bytes
        self._is_converted = self.input.is_converted
        self._shape = [1, *self.input.dims]
        # The description of the input as clients send it without parameters of its own: the usual case.
        self._usual = pb.ModelInferRequest.InferInputTensor(
            name=self.input.name, datatype=self.input.datatype, shape=self._shape
        ).SerializeToString()
        self._only = self.outputs[0].name if len(self.outputs) == 1 else ""
        self._places = {tensor.name: place for place, tensor in enumerate(self.outputs)}
        self._everything = tuple(range(len(self.outputs)))

    def row_of(self, request: pb.ModelInferRequest) -> bytes:
        """The request's one input row, as the engine takes it.

        Raises:
            CarouselError: FIELD_INVALID, INPUT_SHAPE or INPUT_DTYPE, in Triton's words.
        """
        inputs, raw = request.inputs, request.raw_input_contents
        if len(inputs) != 1:
            raise self._wrong_inputs(request)
        given = inputs[0]
        if len(raw) == 1 and given.SerializeToString() == self._usual:
            data = raw[0]
        else:
            data = self._looked_at(given, raw)
        if len(data) != self._wire_bytes:
            raise CarouselError(
                "INPUT_SHAPE",
                f"input byte size mismatch for input '{self.input.name}' for model "
                f"'{self.model.name}'. Expected {self._wire_bytes}, got {len(data)}",
                field="inputs",
            )
        return self._converted(data) if self._is_converted else data

    def _looked_at(
        self, given: pb.ModelInferRequest.InferInputTensor, raw: Sequence[bytes]
    ) -> bytes:
        """The data of an input, once everything about it has been checked but its size."""
        wanted = self.input
        if given.name != wanted.name:
            what = f"unexpected inference input '{given.name[:_SHOWN]}' for model"
            raise self._invalid(what, "inputs")
        if given.datatype != wanted.datatype:
            raise CarouselError(
                "INPUT_DTYPE",
                f"inference input '{wanted.name}' data-type is '{given.datatype[:_SHOWN]}', but model "
                f"'{self.model.name}' expects '{wanted.datatype}'",
                field="inputs[0].datatype",
            )
        if given.shape != self._shape:
            raise self._wrong_shape(list(given.shape))
        if raw and (len(raw) != 1 or given.HasField("contents")):
            raise self._ambiguous(given)
        return raw[0] if raw else self._contents(given)

    def chosen(self, request: pb.ModelInferRequest) -> tuple[int, ...]:
        """Places of the outputs that the request asks for, none twice; all of them if it names none.

        Raises:
            CarouselError: FIELD_INVALID.
        """
        outputs = request.outputs
        if not outputs:
            return self._everything
        if any("classification" in output.parameters for output in outputs):
            raise self._invalid("classification of outputs is not offered for model", "outputs")
        if len(outputs) == 1 and outputs[0].name == self._only:
            return self._everything
        if len(outputs) > len(self.outputs):
            what = f"expected at most {len(self.outputs)} outputs but got {len(outputs)} for model"
            raise self._invalid(what, "outputs")
        places: list[int] = []
        for output in outputs:
            place = self._places.get(output.name)
            if place is None:
                what = f"unexpected inference output '{output.name[:_SHOWN]}' for model"
                raise self._invalid(what, "outputs")
            if place in places:
                raise self._invalid(
                    f"output '{output.name}' is asked for twice of model", "outputs"
                )
            places.append(place)
        return tuple(places)

    def _contents(self, given: pb.ModelInferRequest.InferInputTensor) -> bytes:
        """Typed contents as raw bytes."""
        if not given.HasField("contents"):
            raise CarouselError(
                "FIELD_INVALID",
                f"unable to find data for input tensor '{given.name}' for model "
                f"'{self.model.name}' in request",
                field="raw_input_contents",
            )
        values = getattr(given.contents, _CONTENTS[self.input.datatype])
        return np.asarray(values, NUMPY[self.input.datatype]).tobytes()

    def _converted(self, data: bytes) -> bytes:
        """Triton's integers as our row; refuses what would change its value."""
        given = np.frombuffer(data, NUMPY[self.input.datatype])
        row = given.astype(self.input.dtype)
        if not (row.astype(np.float64) == given.astype(np.float64)).all():
            raise self._invalid(f"a number of input '{self.input.name}' is too large for", "inputs")
        return row.tobytes()

    def _invalid(self, what: str, field: str) -> CarouselError:
        return CarouselError("FIELD_INVALID", f"{what} '{self.model.name}'", field=field)

    def _ambiguous(self, given: pb.ModelInferRequest.InferInputTensor) -> CarouselError:
        if given.HasField("contents"):
            what = (
                f"contents field must not be specified when using raw_input_contents for "
                f"'{given.name}' for model"
            )
            return self._invalid(what, "inputs")
        return self._invalid("more raw_input_contents than inputs for model", "raw_input_contents")

    def _wrong_inputs(self, request: pb.ModelInferRequest) -> CarouselError:
        names = [tensor.name[:_SHOWN] for tensor in request.inputs]
        missing = [] if self.input.name in names else [self.input.name]
        return CarouselError(
            "FIELD_INVALID",
            f"expected 1 inputs but got {len(names)} inputs for model '{self.model.name}'. Got "
            f"input(s) {names[:8]}, but missing required input(s) {missing}. Please provide all "
            "required input(s)",
            field="inputs",
        )

    def _wrong_shape(self, shape: list[int]) -> CarouselError:
        if len(shape) == len(self._shape) and shape[1:] == self._shape[1:]:
            return CarouselError(
                "INPUT_SHAPE",
                f"inference request to model '{self.model.name}' must specify batch-size 1 due to "
                "requirements of sequence batcher",
                field="inputs[0].shape",
            )
        expected = ",".join(map(str, (-1, *self.input.dims)))
        return CarouselError(
            "INPUT_SHAPE",
            f"unexpected shape for input '{self.input.name}' for model '{self.model.name}'. "
            f"Expected [{expected}], got [{','.join(map(str, shape[:8]))}]",
            field="inputs[0].shape",
        )


def _tensor(field: TensorField, name: TritonTensor | None) -> Tensor:
    """A field in Triton's words; a scalar has the dimension 1 there."""
    called = name or TritonTensor(field.name, _OWN[field.dtype])
    dims = called.dims or field.shape or (1,)
    return Tensor(called.name, called.datatype, dims, field.dtype)
