"""ONNX files, run by onnxruntime on the CPU."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from carousel_models.errors import PackageError

from .interface import Call, Dimension, Port, Signature

log = logging.getLogger(__name__)

_DTYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
"""Types of onnxruntime that NumPy and torch have too."""

_EXTERNAL = re.compile(rb"(\x0a|\x8a\x80*[\x00-\x7f])(\x08|\x88\x80*\x00)location")
"""The key that each tensor outside of the file has, as protocol buffers can write it. A reader drops the bits
of a tag beyond 32."""


def load(data: bytes, device: torch.device, where: str) -> OnnxProgram:
    """Loads an ONNX file. It runs on the CPU, wherever the model's other weights are.

    Raises:
        PackageError: onnxruntime is not installed or does not load the file, or weights lie in another file.
    """
    if has_external_data(data):
        raise PackageError(
            f"{where} keeps weights in another file (external data), which its hash does not cover; import "
            "the model again, which packs them in"
        )
    runtime = onnxruntime()
    try:
        session = runtime.InferenceSession(
            data, options(runtime), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no common class
        raise PackageError(
            f"{where} is not a model that onnxruntime {runtime.__version__} can run: {error}; export it again"
        ) from error
    if device.type != "cpu":
        log.warning("%s runs on the CPU: its rows and states are copied in each step", where)
    return OnnxProgram(session)


def has_external_data(data: bytes) -> bool:
    """True if an ONNX file keeps some of its weights in other files."""
    return _EXTERNAL.search(data) is not None


def onnxruntime() -> Any:
    """The module onnxruntime.

    Raises:
        PackageError: it is not installed.
    """
    try:
        import onnxruntime as runtime
    except ImportError as missing:
        raise PackageError(
            f"ONNX programs need onnxruntime, which is not installed here ({missing}); "
            "pip install 'carousel-serving[onnx]'"
        ) from missing
    return runtime


def options(runtime: Any) -> Any:
    """Options of a session: one thread, so that no sum is split by the number of cores of a machine.

    All optimizations stay on, as in a plain session. Sessions log no errors, because each one is raised too.
    """
    found = runtime.SessionOptions()
    found.intra_op_num_threads = 1
    found.inter_op_num_threads = 1
    found.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    found.log_severity_level = 4
    return found


class OnnxProgram:
    """A session of onnxruntime."""

    device = torch.device("cpu")
    fresh = True
    shared: Mapping[str, Tensor] = {}

    def __init__(self, session: Any) -> None:
        self._session = session
        self.signature = Signature(
            tuple(_port(port) for port in session.get_inputs()),
            tuple(_port(port) for port in session.get_outputs()),
        )

    def bind(
        self, inputs: Sequence[str], outputs: Sequence[str], constants: Mapping[str, Tensor]
    ) -> Call:
        """See `Program`. Tensors are handed over without copies, in both directions."""
        run, names = self._session.run, list(outputs)
        always = {name: tensor.numpy() for name, tensor in constants.items()}

        def call(given: Sequence[Tensor]) -> list[Tensor]:
            feed = {name: tensor.numpy() for name, tensor in zip(inputs, given, strict=True)}
            return [torch.from_numpy(array) for array in run(names, feed | always)]

        return call


def _port(port: Any) -> Port:
    dtype = _DTYPES.get(port.type, port.type)
    return Port(port.name, dtype, tuple(_dimension(dim) for dim in port.shape))


def _dimension(dim: Any) -> Dimension:
    """A declared dimension. Numbers below one are left open by some exporters."""
    if isinstance(dim, int):
        return dim if dim > 0 else None
    return dim or None
