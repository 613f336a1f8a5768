"""Saves ordinary torch modules as packages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from .agreement import Reference, agreed_probe, check_same, device_of
from .building import Foreign
from .cells import HALF
from .custom import make_again
from .errors import PackageError
from .exact import check_exact
from .from_torch import Modules, Normalizing, Stacked, convert
from .given_parts import files_of
from .initial import Initial, convert_initial
from .loading import build_in_float32
from .model import RecurrentModel
from .probe import make_probe
from .programs.files import open_programs
from .saved_decoder import Decoder
from .spec import (
    Architecture,
    CustomSpec,
    Dtype,
    FeaturesInput,
    FramesInput,
    Manifest,
    Output,
    OverlapAdd,
    Select,
    SelectFull,
    Transform,
    TritonNames,
)
from .states import INITIAL_PREFIX
from .tokenizer import has_file, kind_of
from .whole.checking import check_results, read_whole
from .whole.module import Whole
from .writing import write


def save(
    path: Path | str,
    *,
    name: str | None = None,
    model: nn.Module | None = None,
    stack: Stacked | None = None,
    embedding: nn.Embedding | None = None,
    projection: nn.Linear | None = None,
    head: nn.Module | None = None,
    residual: bool | Sequence[bool] = False,
    norms: Sequence[nn.LayerNorm | nn.RMSNorm | None] = (),
    custom: CustomSpec | None = None,
    features: int | None = None,
    frames: FramesInput | None = None,
    overlap_add: OverlapAdd | None = None,
    normalization: Normalizing | None = None,
    transform: Transform = "identity",
    select: Select | None = None,
    tokenizer: str | Path = "none",
    eos: SupportsIndex | Sequence[SupportsIndex] = (),
    labels: Sequence[str] = (),
    description: str = "",
    training: dict[str, Any] | None = None,
    dtype: Dtype = "float32",
    triton: TritonNames | None = None,
    initial: Initial | None = None,
    initials: Mapping[str, Initial] | None = None,
    decoder: Decoder | None = None,
    reference: Reference | None = None,
    example: Any = None,
    skeleton: Path | str | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes a package from a whole module, or from the modules of its parts, and returns its manifest.

    The package is checked as by `load` before it is moved into place.

    Args:
        path: the package's folder, made here.
        name: the model's name; the folder's by default.
        model: a whole module. It is run once, and the parts follow from its operations. No part is given
            then.
        stack: nn.LSTM, nn.GRU, nn.RNN, one of their cells or cells.GRUResetBefore, or several of them one
            after the other; with `custom`, the module that it describes. Dropout is left out. A list of
            parts, each of `part`, of `program` or a description without weights of `stack_kinds`, is a chain
            in which a part reads the rows of earlier ones.
        embedding: makes the input tokens. Without it the input is float rows.
        projection: linear layer between input and stack.
        head: None, nn.Linear, or nn.Sequential of linear layers, activations, norms and BatchNorm1d.
        residual: adds a layer's input to its output; one flag, or one per layer.
        norms: one nn.LayerNorm, nn.RMSNorm or None per layer, applied after the residual.
        custom: describes a module instead of the built-in stack.
        features: input width, for `custom` without `projection`, or where it does not follow from `model` or
            the first part.
        frames: the input is samples of a signal. The stack, or the projection, takes `context + hop` of them.
        overlap_add: the head's rows are frames of a signal that overlap, and the output is that signal.
        normalization: (mean, std) per feature: the server computes (x − mean) / std.
        transform: applied to the head's row.
        select: SelectFull, SelectTopK or SelectArgmax.
        tokenizer: "none", "bytes", or the path of a Hugging Face tokenizer.json, which is copied.
        eos: token id, or ids, that end a text. A generation stops at one.
        labels: names of the outputs.
        description: one line for people.
        training: free notes: data, quality, recipe.
        dtype: type of the matrices; they are rounded to it here.
        triton: names of the input and the outputs for Triton's clients.
        initial: the state with which sessions begin, as a learned h0; zeros by default. A tensor
            [layers, 1, width] as torch has it, a tuple (h0, c0) of them, or values by the names of the states
            ("0.h", "0.c", or those of `custom`), of a state's shape, or a number.
        initials: the same for named states, such as voices, of which a client chooses one at open. What such
            a one does not give is as in `initial`.
        decoder: a second stage with a vocabulary of its own, which continues the state after the prompt. The
            other modules are then the encoder, and `labels` name the decoder's tokens.
        reference: the model that the package must equal: a module or function of x, or a pair
            (inputs, outputs). x is float32[3, 32, features], or int64[3, 32] tokens as clients send them.
            The result is the rows before `transform` and `select`, [3, 32, outputs], alone or first of a
            tuple. The rows are compared, and become the probe. With a reference, subclasses and hooks are
            accepted that make no difference. Float32 weights are compared before they are rounded. A whole
            module is always compared, with itself unless there is a reference.
        example: arguments of one call of `model`, x or (x, lengths, …), where they cannot be found out.
        skeleton: a file NAME.py. If a manifest cannot describe `model`, a custom module to go on from is
            written there.
        overwrite: replace an existing package.

    Raises:
        PackageError: the modules do not fit together, a part of them would be lost, the package would differ
            from the reference or would not load, or the folder exists. Nothing is written then.
    """
    path = Path(path)
    kind = kind_of(tokenizer)
    features = _features(model, features, frames, overlap_add)
    modules = Modules(stack, embedding, projection, head, residual, norms, custom, features)
    modules = modules.unwrapped()
    whole = None if model is None else read_whole(model, modules, normalization, example, skeleton)
    if whole is None and reference is None:
        check_exact(modules, _values(initial, *(initials or {}).values()))
    try:
        output = Output(transform=transform, select=select or SelectFull(), overlap_add=overlap_add)
        fields, tensors = whole.converted(output) if whole else convert(modules, normalization)
        fields = _framed({"output": output} | fields, frames)
        tensors |= _second_stage(decoder, fields, proven=reference is not None)
        initial = whole.initial if whole and whole.initial else initial
        states = Architecture(**fields).states
        stored, initial_values = convert_initial(states, initial, initials or {})
        manifest = Manifest(
            name=name or path.name, fingerprint="0" * 64, dtype=dtype, tokenizer=kind,
            eos=_token_ids(eos), labels=tuple(labels), description=description, training=training or {},
            triton=triton or TritonNames(), initial=stored, **fields,
        )  # fmt: skip
    except ValidationError as error:
        raise PackageError(f"these modules do not make a model: {error}") from error
    tensors |= initial_values
    given = modules.custom_module
    made = None if given is None or custom is None else make_again(custom, given)
    files = files_of(modules.parts)
    proof = _Proof(manifest, tensors, files, (made, given), (reference, whole))
    file = Path(tokenizer) if has_file(kind) else None
    return write(
        path, manifest, tensors, custom=made, files=files, probe=proof.probe,
        tokenizer_file=file, overwrite=overwrite,
    )  # fmt: skip


def _second_stage(
    decoder: Decoder | None, fields: dict[str, Any], *, proven: bool
) -> dict[str, Tensor]:
    """The tensors of the decoder, whose description joins `fields`. A reference may have proven its modules.

    Raises:
        PackageError: a part of a module would be lost, or a manifest cannot describe it.
    """
    if decoder is None:
        return {}
    if not proven:
        check_exact(decoder.modules)
    fields["decoder"], tensors = decoder.converted()
    return tensors


def _features(
    model: nn.Module | None,
    features: int | None,
    frames: FramesInput | None,
    overlap_add: OverlapAdd | None,
) -> int | None:
    """The width of the rows before all parts. Frames say it too.

    Raises:
        PackageError: a whole module is to read or to give a signal.
    """
    if model is not None and (frames is not None or overlap_add is not None):
        raise PackageError(
            "frames= and overlap_add= go with stack= and other parts; model= is a whole module, which is "
            "compared row by row; give its parts, and reference= for the signal"
        )
    return frames.raw_width if features is None and frames is not None else features


def _framed(fields: dict[str, Any], frames: FramesInput | None) -> dict[str, Any]:
    """Fields of a manifest with frames instead of features, and the same parts before the stack.

    Raises:
        PackageError: the input is tokens or normalised, or its width is another one.
    """
    source = fields["input"]
    if frames is None:
        return fields
    if not isinstance(source, FeaturesInput) or source.normalization is not None:
        raise PackageError(
            "frames need an input of plain features; leave out embedding and normalization"
        )
    if source.width != frames.raw_width:
        raise PackageError(
            f"the model takes rows of {source.width} numbers, but a frame has {frames.raw_width} samples "
            f"({frames.context} of context and {frames.hop} new); choose hop and context so that they fit"
        )
    made = frames.model_copy(update={"projection": source.projection, "front": source.front})
    return fields | {"input": made}


@dataclass(frozen=True, slots=True)
class _Proof:
    """Compares a new package with what it was made of.

    Attributes:
        manifest: of the package.
        tensors: before they are rounded.
        files: of programs.
        custom: the custom module as a server makes it, and the one that was given.
        original: the user's reference, and a whole module, which is its own reference.
    """

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    files: Mapping[str, bytes]
    custom: tuple[nn.Module | None, nn.Module | None]
    original: tuple[Reference | None, Whole | None]

    def probe(self, model: RecurrentModel) -> dict[str, Tensor]:
        """The probe of the package.

        Raises:
            PackageError: the package differs.
        """
        (made, given), (measure, whole) = self.custom, self.original
        if given is not None:
            check_same(self._exact(made), self._exact(given), given)
        if measure is None and whole is not None:
            check_results(self._exact(None), whole)
            measure = whole.rows.raw
        if measure is None:
            return make_probe(model)
        if self.manifest.dtype != "float32" and not _is_half(self.tensors):
            agreed_probe(self._exact(made), measure)  # rounding would hide a small difference
        return agreed_probe(model, measure)

    def _exact(self, custom: nn.Module | None) -> RecurrentModel:
        """The model before it is rounded, on its custom module's device."""
        device = torch.device("cpu") if custom is None else device_of(custom)
        moved = {name: tensor.detach().to(device) for name, tensor in self.tensors.items()}
        programs = open_programs(self.manifest.parts, self.files, device)
        return build_in_float32(self.manifest, moved, Foreign(custom, programs), device)


def _values(*given: Initial | None) -> Iterator[object]:
    """The parts of initial states, as they were given."""
    for values in given:
        if isinstance(values, Mapping):
            yield from values.values()
        elif isinstance(values, tuple):
            yield from values
        else:
            yield values


def _token_ids(ids: SupportsIndex | Sequence[SupportsIndex]) -> int | tuple[int, ...]:
    """One token id or several, as plain integers.

    Raises:
        PackageError: they are not integers.
    """
    try:
        return tuple(map(index, ids)) if isinstance(ids, Iterable) else index(ids)
    except TypeError as error:
        raise PackageError(f"eos must be a token id or several: {error}") from None


def _is_half(tensors: Mapping[str, Tensor]) -> bool:
    return any(
        tensor.dtype in HALF
        for name, tensor in tensors.items()
        if not name.startswith(INITIAL_PREFIX)
    )
