"""A package on disk: its files and its manifest. No torch.

<name>/manifest.json  model.safetensors  probe.safetensors  [tokenizer.json]  [program files]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from .errors import PackageError
from .spec import FORMAT, Manifest

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
PROBE = "probe.safetensors"
TOKENIZER = "tokenizer.json"

_MAX_BYTES = {MANIFEST: 16 << 20, WEIGHTS: 16 << 30, PROBE: 64 << 20, TOKENIZER: 64 << 20}


def package_file(package: Path, name: str, most_bytes: int | None = None) -> Path:
    """The path of one of a package's files, checked to be a file inside of it and not too large.

    The files that are named here have limits of their own. Others have `most_bytes`.

    Raises:
        PackageError: it is missing, is a link out of the package, or is too large.
    """
    path = package / name
    if not path.is_file():
        raise PackageError(f"{package}: {name} is missing; copy the whole package again")
    if not path.resolve().is_relative_to(package.resolve()):
        raise PackageError(
            f"{package}: {name} is a link out of the package; put the file itself there"
        )
    limit = _MAX_BYTES[name] if most_bytes is None else most_bytes
    if path.stat().st_size > limit:
        raise PackageError(f"{package}: {name} is larger than the limit of {limit:,} bytes")
    return path


def read_manifest(package: Path | str) -> Manifest:
    """Reads and checks `manifest.json` alone.

    Raises:
        PackageError: it is missing, of another format version, or does not describe a model.
    """
    package = Path(package)
    text = package_file(package, MANIFEST).read_bytes()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PackageError(
            f"{package}: {MANIFEST} is not JSON: {error}; save the model again"
        ) from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise PackageError(
            f"{package}: package format {version!r} is unknown, this version reads {FORMAT}; "
            "save the model again, or use the version of carousel that wrote it"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise PackageError(f"{package}: {MANIFEST} is not valid: {explain(error)}") from error


def discover(directory: Path | str) -> list[Path]:
    """The packages in a directory, by name, or the directory itself if it is a package.

    Raises:
        PackageError: there is no such directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise PackageError(f"{directory} is not a directory; give a folder of model packages")
    if (directory / MANIFEST).is_file():
        return [directory]
    return sorted(path.parent for path in directory.glob(f"[!.]*/{MANIFEST}"))


def zoo_path() -> Path:
    """The folder of the shipped models, in an installed wheel or in the source tree.

    Raises:
        PackageError: this installation has no zoo.
    """
    here = Path(__file__).resolve().parent
    for path in (here / "zoo", here.parent / "zoo"):
        if path.is_dir():
            return path
    raise PackageError("this installation has no zoo; install carousel-serving from its wheel")


def explain(error: ValidationError) -> str:
    """The problems that were found, each with the place of the field, in one line."""
    problems = error.errors(include_url=False, include_input=False)
    places = [problem["loc"] for problem in problems]
    parts = [
        f"{'.'.join(map(str, problem['loc'])) or 'manifest'}: {_WORDS.get(problem['type'], problem['msg'])}"
        for problem in problems
        # A list without its bad elements is too short. That is no problem of its own.
        if problem["type"] != "too_short" or not any(map(_inside(problem["loc"]), places))
    ]
    return "; ".join(parts)


_WORDS = {"extra_forbidden": "there is no such field", "missing": "this field is missing"}
"""Words for people, by pydantic's types of problems."""


def _inside(place: tuple[int | str, ...]) -> Callable[[tuple[int | str, ...]], bool]:
    return lambda other: len(other) > len(place) and other[: len(place)] == place
