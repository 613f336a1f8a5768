"""Writes a manifest and its tensors as a package: checks it, probes it, and moves it into place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .building import Foreign
from .contract import check_contract
from .custom import UNROUNDED, custom_tensors
from .errors import PackageError
from .loading import build, build_in_float32, prove
from .model import RecurrentModel
from .package import MANIFEST, PROBE, TOKENIZER, WEIGHTS
from .probe import make_probe
from .programs.files import open_programs
from .spec import Manifest
from .tensors import TensorInfo, expected_tensors
from .tokenizer import load_tokenizer
from .weights import fingerprint, info_of


def write(
    path: Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    *,
    custom: nn.Module | None = None,
    files: Mapping[str, bytes] | None = None,
    probe: Callable[[RecurrentModel], dict[str, Tensor]] = make_probe,
    tokenizer_file: Path | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes a package, and checks it as `load` does before it is moved into place.

    The manifest's fingerprint and the probe are made here.

    Args:
        path: the package's folder.
        manifest: everything but the fingerprint.
        tensors: named as in `tensors.py`. They are rounded here to the manifest's type.
        custom: the module as a server makes it. Its weights are the `custom.…` tensors.
        files: the files of programs, by their names in the package.
        probe: makes the probe of the model that will be written, or refuses it.
        tokenizer_file: copied into the package.
        overwrite: replace an existing package.

    Returns:
        The manifest as written.

    Raises:
        PackageError: the tensors are not those of the architecture, the model would not load, or the folder
            exists. Nothing is written then.
    """
    if path.exists() and not overwrite:
        raise PackageError(
            f"{path} exists; choose another name, or replace it with overwrite=True (--overwrite)"
        )
    expected = expected_tensors(manifest) | (custom_tensors(custom) if custom is not None else {})
    ready = _rounded(tensors, expected)
    _compare({name: info_of(tensor) for name, tensor in ready.items()}, expected)
    if tokenizer_file is not None:
        load_tokenizer(manifest.tokenizer, tokenizer_file)
    mark = fingerprint(manifest.architecture, ready)
    manifest = manifest.model_copy(update={"fingerprint": mark})
    cpu = torch.device("cpu")
    files = files or {}
    foreign = Foreign(custom, open_programs(manifest.parts, files, cpu))
    model = build(manifest, ready, foreign=foreign)
    if manifest.foreign:
        check_contract(build_in_float32(manifest, ready, foreign), lambda: foreign.shared)
    proof = probe(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        partial.chmod(0o755)
        save_file(ready, partial / WEIGHTS)
        save_file(proof, partial / PROBE)
        if tokenizer_file is not None:
            shutil.copyfile(tokenizer_file, partial / TOKENIZER)
        for name, data in files.items():
            (partial / name).write_bytes(data)
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2, by_alias=True) + "\n")
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors writes 0600; a server runs as another user
        _prove(partial, path, custom)
        _put(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _prove(partial: Path, path: Path, custom: nn.Module | None) -> None:
    try:
        prove(partial, custom, device=torch.device("cpu"))
    except PackageError as refused:
        raise PackageError(
            f"nothing was written, as no server would load it: "
            f"{str(refused).replace(str(partial), str(path))}"
        ) from refused


def _put(partial: Path, path: Path) -> None:
    """Renames a package into place. An older one is moved away first, since folders cannot be swapped."""
    if not path.exists():
        partial.rename(path)
        return
    old = partial.with_name(partial.name + ".old")
    path.rename(old)
    partial.rename(path)
    shutil.rmtree(old)


def _rounded(
    tensors: Mapping[str, Tensor], expected: Mapping[str, TensorInfo]
) -> dict[str, Tensor]:
    """Copies on the CPU, in the types of the package. Tensors with types of their own are unchanged.

    Raises:
        PackageError: a number is not finite.
    """
    found = {}
    for name, tensor in tensors.items():
        rounded = name in expected and not name.startswith(UNROUNDED)
        dtype = getattr(torch, expected[name].dtype) if rounded else tensor.dtype
        value = tensor.detach().cpu().to(dtype).clone(memory_format=torch.contiguous_format)
        if not name.startswith(UNROUNDED):
            _check_finite(name, value)
        found[name] = value
    return found


def _check_finite(name: str, value: Tensor) -> None:
    bad = (~value.isfinite()).nonzero()
    if len(bad):
        raise PackageError(
            f"{name} has {len(bad)} numbers that are NaN, infinite or too large for {value.dtype}, the first "
            f"at {bad[0].tolist()}; correct the training, or those weights"
        )


def _compare(found: Mapping[str, TensorInfo], expected: Mapping[str, TensorInfo]) -> None:
    names = sorted(found.keys() | expected.keys())
    wrong = [name for name in names if found.get(name) != expected.get(name)]
    if wrong:
        listed = (
            f"{name}: {found.get(name)} instead of {expected.get(name)}" for name in wrong[:5]
        )
        raise PackageError(f"these modules do not fit together: {'; '.join(listed)}")
