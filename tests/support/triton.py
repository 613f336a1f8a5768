"""A client of the Triton door for tests, with our own messages over real gRPC, without tritonclient."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message

from carousel_protos.triton import inference_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"


def request(
    model: str,
    values: Any,
    sequence: int | str = 0,
    *,
    start: bool = False,
    end: bool = False,
    name: str = "x",
    datatype: str = "FP32",
    id: str = "",  # noqa: A002 - the protocol's name
    dtype: str = "<f4",
    **parameters: Any,
) -> pb.ModelInferRequest:
    """One step as Triton's own clients send it: a batch of one, raw bytes."""
    row = np.asarray(values, dtype)[None]
    asked = pb.ModelInferRequest(model_name=model, id=id, raw_input_contents=[row.tobytes()])
    asked.inputs.add(name=name, datatype=datatype, shape=row.shape)
    if sequence:
        parameters |= {"sequence_id": sequence, "sequence_start": start, "sequence_end": end}
    for key, value in parameters.items():
        set_parameter(asked, key, value)
    return asked


def set_parameter(asked: pb.ModelInferRequest, key: str, value: Any) -> None:
    """Sets a parameter in the field of its type."""
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    setattr(asked.parameters[key], kinds[type(value)], value)


def outputs(response: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    """The output tensors of a reply, by name."""
    types = {"FP32": "<f4", "INT32": "<i4", "INT64": "<i8"}
    return {
        tensor.name: np.frombuffer(raw, types[tensor.datatype]).reshape(list(tensor.shape))
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


class TritonStubs:
    """The service over one channel, with a bearer token if one is given."""

    def __init__(self, target: str, token: str = "") -> None:
        self.channel = grpc.aio.insecure_channel(target)
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def __aenter__(self) -> TritonStubs:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def raw(self, method: str) -> Any:
        """A unary method with bytes as request and reply."""
        return partial(self.channel.unary_unary(SERVICE + method), metadata=self.metadata)

    async def ask(self, method: str, question: Message | None = None) -> Any:
        """Calls a unary method. The request is empty by default."""
        asked = question or getattr(pb, f"{method}Request")()
        reply = await self.raw(method)(asked.SerializeToString())
        return getattr(pb, f"{method}Response").FromString(reply)

    async def infer(self, *args: Any, **fields: Any) -> dict[str, np.ndarray]:
        """ModelInfer, with the arguments of `request`."""
        return outputs(await self.ask("ModelInfer", request(*args, **fields)))

    def stream(self, *metadata: tuple[str, str]) -> TritonTalk:
        """ModelStreamInfer."""
        method = self.channel.stream_stream(SERVICE + "ModelStreamInfer")
        return TritonTalk(method(metadata=(*self.metadata, *metadata)))


class TritonTalk:
    """One stream, a message at a time."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def say(self, *args: Any, **fields: Any) -> None:
        """Sends a request, with the arguments of `request`."""
        await self.call.write(request(*args, **fields).SerializeToString())

    async def hear(self) -> pb.ModelStreamInferResponse:
        """The next reply, with outputs or an error."""
        data = await self.call.read()
        assert data is not grpc.aio.EOF, f"the stream ended: {await self.call.code()}"
        return pb.ModelStreamInferResponse.FromString(data)

    async def output(self) -> dict[str, np.ndarray]:
        """The outputs of the next reply, which must not be an error."""
        reply = await self.hear()
        assert not reply.error_message, reply
        return outputs(reply.infer_response)

    async def error(self) -> str:
        """The text of the next reply, which must be an error."""
        reply = await self.hear()
        assert reply.error_message, reply
        return reply.error_message
