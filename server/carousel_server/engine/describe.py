"""What clients may know of a loaded model."""

from __future__ import annotations

from typing import Literal

import torch

from carousel_models import RecurrentModel
from carousel_models.spec import FramesInput, Manifest
from carousel_models.spec import TritonTensor as NamedTensor
from carousel_server.core.limits import EngineLimits
from carousel_server.core.types import (
    DecoderView,
    ModelView,
    Signal,
    StateField,
    TensorField,
    TritonTensor,
)
from carousel_server.rows.window import Window

_DTYPES: dict[torch.dtype, Literal["<f4", "<i4", "<i2"]] = {
    torch.float32: "<f4",
    torch.int32: "<i4",
    torch.int16: "<i2",
}


def describe(model: RecurrentModel, limits: EngineLimits, *, strict: bool) -> ModelView:
    """The model as the wire shows it; settles the window's size.

    Raises:
        ValueError: if the windows of all slots do not fit into `window_bytes`.
    """
    manifest = model.manifest
    outputs = tuple(
        TensorField(name, _DTYPES[dtype], shape) for name, dtype, shape in model.output_fields
    )
    given = manifest.input.row
    row = TensorField(given.name, _DTYPES[getattr(torch, given.dtype)], given.shape)
    row_bytes = row.row_bytes + sum(field.row_bytes for field in outputs)
    return ModelView(
        name=manifest.name,
        fingerprint=model.fingerprint,
        description=manifest.description,
        cell=manifest.cell,
        layers=len(manifest.stack),
        hidden=manifest.hidden,
        input=row,
        outputs=outputs,
        causal=model.causal,
        vocabulary=model.vocabulary,
        generative=model.generative,
        tokenizer=model.tokenizer.kind if model.tokenizer else "",
        labels=tuple(manifest.labels),
        parameters=model.parameters,
        state_bytes=model.state_bytes,
        compute_dtype=manifest.dtype,
        window_steps=Window.fit(limits.slots, limits.window_steps, row_bytes, limits.window_bytes),
        max_sequence_steps=limits.max_sequence_steps,
        execution_class=_execution_class(model, strict=strict),
        signal=_signal(manifest),
        triton_input=_triton(manifest.triton.input),
        triton_outputs=tuple(
            TritonTensor(t.name, t.datatype, t.dims) for t in manifest.triton.outputs
        ),
        states=tuple(
            StateField(s.name, str(s.dtype).removeprefix("torch."), s.shape, s.finite)
            for s in model.state_specs
        ),
        initials=tuple(name for name in model.initial if name),
        decoder=_decoder(manifest),
    )


def _signal(manifest: Manifest) -> Signal | None:
    source, added = manifest.input, manifest.output.overlap_add
    if not isinstance(source, FramesInput):
        return None
    # A signal of another rate than the input's is rows for a client, and no stream of samples.
    output = added is not None and added.hop == source.hop
    delay = manifest.frame_width - source.hop if output else 0
    return Signal(source.hop, source.rate, output, delay)


def _decoder(manifest: Manifest) -> DecoderView | None:
    one = manifest.decoder
    if one is None:
        return None
    return DecoderView(one.input.vocabulary, one.start, one.stop, one.most)


def _triton(tensor: NamedTensor | None) -> TritonTensor | None:
    return None if tensor is None else TritonTensor(tensor.name, tensor.datatype, tensor.dims)


def _execution_class(model: RecurrentModel, *, strict: bool) -> str:
    """What a step's rounding depends on: under the same class a step that runs again gives the same
    bits, always if the class is strict or invariant, else where its batch falls into a bucket of the
    same kind.
    """
    batches = "invariant" if model.batch_invariant else "strict" if strict else "bucketed"
    threads = torch.get_num_threads()
    return (
        f"{model.device.type} {model.manifest.dtype} torch-{torch.__version__} "
        f"threads-{threads} {model.kernel.name} {batches}"
    )
