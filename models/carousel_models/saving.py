"""Models into packages: from torch modules, with a probe, in one atomic move."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import PackageError
from .from_torch import RecurrentModule, convert_head, convert_projection, convert_stack
from .loading import CUSTOM_PREFIX, build, custom_tensors
from .package import MANIFEST, PROBE, TOKENIZER, WEIGHTS
from .probe import make_probe
from .spec import (
    Architecture,
    CustomSpec,
    Dtype,
    FeaturesInput,
    Input,
    Manifest,
    Normalization,
    Output,
    Projection,
    Select,
    SelectFull,
    TokensInput,
    Transform,
)
from .tensors import expected_tensors
from .tokenizer import load_tokenizer
from .weights import fingerprint, info_of

Normalizing = tuple[Sequence[float], Sequence[float]]


def save(
    path: Path | str,
    *,
    name: str | None = None,
    stack: RecurrentModule | Sequence[RecurrentModule] | nn.Module,
    embedding: nn.Embedding | None = None,
    projection: nn.Linear | None = None,
    head: nn.Module | None = None,
    residual: bool | Sequence[bool] = False,
    norms: Sequence[nn.LayerNorm | None] = (),
    custom: CustomSpec | None = None,
    features: int | None = None,
    normalization: Normalizing | None = None,
    transform: Transform = "identity",
    select: Select | None = None,
    tokenizer: str | Path = "none",
    labels: Sequence[str] = (),
    description: str = "",
    training: dict[str, Any] | None = None,
    dtype: Dtype = "float32",
    overwrite: bool = False,
) -> Manifest:
    """Writes a package from ordinary torch modules.

    Args:
        path: the package's folder, made here.
        name: the model's name; the folder's by default.
        stack: nn.LSTM, nn.GRU, nn.RNN or cells.GRUResetBefore, or several of them one after the other;
            with `custom`, the module that it describes. Dropout is left out.
        embedding: makes the input tokens. Without it the input is float rows.
        projection: linear layer between input and stack.
        head: None, nn.Linear, or nn.Sequential of linear layers and activations.
        residual: adds a layer's input to its output; one flag, or one per layer.
        norms: one nn.LayerNorm or None per layer, applied after the residual.
        custom: describes a module in place of the built-in stack.
        features: input width for `custom` without `projection`; otherwise it follows from the modules.
        normalization: (mean, std) per feature: the server computes (x − mean) / std.
        transform: applied to the head's row.
        select: SelectFull, SelectTopK or SelectArgmax.
        tokenizer: "none", "bytes", or the path of a Hugging Face tokenizer.json, which is copied.
        labels: names of the outputs.
        description: one line for people.
        training: free notes: data, quality, recipe.
        dtype: type of the matrices; they are rounded to it here.
        overwrite: replace an existing package.

    Returns:
        The manifest as written.

    Raises:
        PackageError: the modules do not fit together, or the folder exists.
    """
    path = Path(path)
    front, front_tensors = convert_projection(projection)
    head_spec, head_tensors = convert_head(head)
    tensors = front_tensors | head_tensors
    if custom is None:
        layers, stack_tensors = convert_stack(stack, residual, norms)  # type: ignore[arg-type]
        width = stack_tensors["stack.0.forward.weight_ih"].shape[1] if layers else 0
    else:
        assert isinstance(stack, nn.Module)
        layers, width = (), features or 0
        stack_tensors = {CUSTOM_PREFIX + key: value for key, value in stack.state_dict().items()}
    if embedding is not None:
        tensors["embedding.weight"] = embedding.weight
    raw_width = projection.in_features if projection is not None else width
    fields: dict[str, Any] = {
        "name": name or path.name,
        "stack": layers,
        "custom": custom,
        "head": head_spec,
        "dtype": dtype,
        "labels": tuple(labels),
        "description": description,
        "training": training or {},
    }
    try:
        fields["input"] = _input(embedding, raw_width, front, normalization)
        fields["output"] = Output(transform=transform, select=select or SelectFull())
        manifest = _manifest(fields, tokenizer)
    except ValidationError as error:
        raise PackageError(f"these modules do not make a model: {error}") from error
    module = stack if custom is not None and isinstance(stack, nn.Module) else None
    tokenizer_file = Path(tokenizer) if manifest.tokenizer == "huggingface" else None
    return write(
        path,
        manifest,
        tensors | stack_tensors,
        custom=module,
        tokenizer_file=tokenizer_file,
        overwrite=overwrite,
    )


def write(
    path: Path,
    manifest: Manifest,
    tensors: dict[str, Tensor],
    *,
    custom: nn.Module | None = None,
    tokenizer_file: Path | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes a package from a manifest and its tensors; the manifest's fingerprint is filled in here.

    Raises:
        PackageError: the tensors are not those of the architecture, or the folder exists.
    """
    if path.exists() and not overwrite:
        raise PackageError(f"{path} exists; choose another name, or overwrite it on purpose")
    tensors = _round(manifest, tensors)
    expected = expected_tensors(manifest) | (custom_tensors(custom) if custom is not None else {})
    found = {name: info_of(tensor) for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(
            key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
        )
        detail = "; ".join(
            f"{key}: {found.get(key)} instead of {expected.get(key)}" for key in wrong[:5]
        )
        raise PackageError(f"these modules do not fit together: {detail}")
    mark = fingerprint(manifest.architecture, tensors)
    manifest = manifest.model_copy(update={"fingerprint": mark})
    if tokenizer_file is not None:
        load_tokenizer(manifest.tokenizer, tokenizer_file)
    probe = make_probe(build(manifest, tensors, custom=custom))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        partial.chmod(0o755)
        save_file(tensors, partial / WEIGHTS)
        save_file(probe, partial / PROBE)
        if tokenizer_file is not None:
            shutil.copyfile(tokenizer_file, partial / TOKENIZER)
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        _put(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _put(partial: Path, path: Path) -> None:
    """Renames into place; an older package is moved aside first, since folders cannot be swapped."""
    if not path.exists():
        partial.rename(path)
        return
    old = partial.with_name(partial.name + ".old")
    path.rename(old)
    partial.rename(path)
    shutil.rmtree(old)


def _round(manifest: Manifest, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: matrices in the model's type, vectors float32, a custom module's as they are."""
    matrix = getattr(torch, manifest.dtype)
    rounded = {}
    for name, tensor in tensors.items():
        dtype = matrix if tensor.dim() == 2 else torch.float32
        dtype = tensor.dtype if name.startswith(CUSTOM_PREFIX) else dtype
        rounded[name] = tensor.detach().cpu().to(dtype).clone(memory_format=torch.contiguous_format)
    return rounded


def _input(
    embedding: nn.Embedding | None,
    width: int,
    projection: Projection | None,
    normalization: Normalizing | None,
) -> Input:
    if embedding is not None:
        if normalization is not None:
            raise PackageError("normalization is for features; an embedding has none")
        return TokensInput(
            vocabulary=embedding.num_embeddings,
            embedding=embedding.embedding_dim,
            projection=projection,
        )
    constants = None
    if normalization is not None:
        mean, std = (tuple(float(value) for value in part) for part in normalization)
        constants = Normalization(mean=mean, std=std)
    return FeaturesInput(width=width, projection=projection, normalization=constants)


def _manifest(fields: dict[str, Any], tokenizer: str | Path) -> Manifest:
    architecture = Architecture(**{key: fields[key] for key in Architecture.model_fields})
    expected_tensors(architecture)
    fields["tokenizer"] = tokenizer if tokenizer in {"none", "bytes"} else "huggingface"
    return Manifest(**fields, fingerprint="0" * 64)
