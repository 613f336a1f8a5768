"""Makes models of given sizes with random weights, for capacity planning and tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from .cell_facts import OptionValue
from .errors import PackageError
from .spec import (
    Cell,
    Dtype,
    FeaturesInput,
    Input,
    LinearHead,
    Manifest,
    NoHead,
    Output,
    Select,
    SelectFull,
    TokensInput,
    Transform,
    uniform_stack,
)
from .tensors import expected_tensors
from .writing import write

_DTYPES: dict[str, Dtype] = {
    "fp32": "float32",
    "float32": "float32",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
}


def create(
    name: str,
    *,
    cell: Cell = "lstm",
    layers: int = 1,
    hidden: int = 256,
    input: str = "features:64",  # noqa: A002 - the manifest's and the command line's word
    output: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
    dir: Path | str = ".",  # noqa: A002 - the command line's word
    bias: bool = True,
    bidirectional: bool = False,
    proj_size: int = 0,
    options: Mapping[str, OptionValue] | None = None,
    transform: Transform = "identity",
    select: Select | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes a package `dir/name` with random weights, the same for the same seed.

    Args:
        name: the model's and the folder's name.
        cell: one of spec.Cell.
        layers: number of layers.
        hidden: hidden size of each.
        input: "features:WIDTH", "tokens:VOCABULARY" (embedded in `hidden` numbers), or
            "tokens:VOCABULARYxEMBEDDING". A vocabulary of 256 gets the bytes tokenizer.
        output: width of a linear head, or 0 for none. None is the vocabulary, or no head with features.
        dtype: "float32" or "bfloat16" ("fp32", "bf16").
        seed: of the weights.
        dir: the folder in which the package's folder is made.
        bias: True for layers with biases.
        bidirectional: True for layers in both directions.
        proj_size: width of the projected output, for cells that have it.
        options: the cell's own options, such as {"heads": 4}; see cell_facts.FACTS.
        transform: applied to the head's row.
        select: the part of the row that is sent.
        overwrite: replace an existing package.

    Raises:
        PackageError: an argument is out of range, or the package exists.
    """
    if dtype not in _DTYPES:
        raise PackageError(f"dtype {dtype!r} is unknown; use one of {', '.join(_DTYPES)}")
    source = _parse_input(input, hidden)
    vocabulary = source.vocabulary if isinstance(source, TokensInput) else 0
    width = vocabulary if output is None else output
    try:
        manifest = Manifest(
            name=name,
            input=source,
            stack=uniform_stack(
                cell,
                layers,
                hidden,
                bias=bias,
                bidirectional=bidirectional,
                proj_size=proj_size,
                options=options,
            ),
            head=LinearHead(width=width) if width else NoHead(),
            output=Output(transform=transform, select=select or SelectFull()),
            dtype=_DTYPES[dtype],
            tokenizer="bytes" if vocabulary == 256 else "none",
            description=f"random weights: {layers}×{hidden} {cell}, seed {seed}",
            fingerprint="0" * 64,
        )
    except ValidationError as error:
        raise PackageError(f"no such model: {error}") from error
    return write(Path(dir) / name, manifest, random_tensors(manifest, seed), overwrite=overwrite)


def random_tensors(manifest: Manifest, seed: int) -> dict[str, Tensor]:
    """Float32 tensors of a built-in model, uniform in ±1/√fan-in (hidden size for the stack)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, info in expected_tensors(manifest).items():
        if key.startswith("stack."):
            bound = manifest.stack[int(key.split(".")[1])].hidden ** -0.5
        else:
            bound = info.shape[-1] ** -0.5
        value = torch.empty(info.shape).uniform_(-bound, bound, generator=generator)
        tensors[key] = value + 1 if key.endswith("norm.weight") else value
    return tensors


def _parse_input(text: str, hidden: int) -> Input:
    kind, _, sizes = text.partition(":")
    try:
        numbers = [int(size) for size in sizes.split("x")]
        if kind == "features" and len(numbers) == 1:
            return FeaturesInput(width=numbers[0])
        if kind == "tokens" and len(numbers) in {1, 2}:
            return TokensInput(vocabulary=numbers[0], embedding=(*numbers, hidden)[1])
    except ValueError as error:  # pydantic's errors are ValueErrors too
        raise PackageError(f"input {text!r} is out of range: {error}") from error
    raise PackageError(
        f"input {text!r} is not understood; use features:WIDTH, tokens:VOCABULARY or "
        "tokens:VOCABULARYxEMBEDDING"
    )
