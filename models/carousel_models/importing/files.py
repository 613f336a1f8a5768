"""Imports one file: reads it, compares it with its original, and writes the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from carousel_models.agreement import Reference, agreed_probe
from carousel_models.errors import PackageError
from carousel_models.model import RecurrentModel
from carousel_models.probe import make_probe
from carousel_models.spec import Manifest
from carousel_models.writing import write

from .imported import Imported, NoOriginalError
from .readers import READERS, Reader, reader_of, taken
from .sound import Encoding, as_frames


def import_file(
    path: Path | str,
    *,
    name: str | None = None,
    dir: Path | str = ".",  # noqa: A002 - the command line's word
    check: bool = False,
    overwrite: bool = False,
    rate: int | None = None,
    encoding: Encoding = "pcm16",
    note: Callable[[str], object] = lambda _: None,
    readers: Mapping[str, Reader] = READERS,
    **options: Any,
) -> Manifest:
    """Writes a package `dir/name` from a model file of another library, and returns its manifest.

    Args:
        path: the file. The end of its name chooses the reader.
        name: the model's and the folder's name. The default is the file's name without its end.
        dir: the folder in which the package's folder is made.
        check: also run the original, and compare each step. The original's rows become the probe. If the
            original cannot be run here, a note says why.
        overwrite: replace an existing package.
        rate: the rows are samples of a signal, so many a second. Clients then send frames.
        encoding: of those samples.
        note: receives sentences for the user: what was left out, and whether the package was compared.
        readers: the readers by the ends of names.
        options: of the file's reader, such as `config` or `map`. None is as if not given.

    Raises:
        PackageError: no reader reads the file, an option is not its reader's, the file has a part that a
            package cannot have, or the package differs from the original. Nothing is written then.
        OSError: the file cannot be read.
    """
    path = Path(path)
    path.stat()  # a missing file is an error of the system, whatever its reader needs
    if path.is_dir():
        raise PackageError(f"{path} is a folder; give the file of a model")
    end, reader = reader_of(path, readers)
    given = taken(end, options, readers)
    imported = reader.load()(path, **given)
    name = name or path.name[: -len(end)]
    try:
        imported = imported if rate is None else as_frames(imported, rate, encoding)
        manifest = _manifest(path, name, imported)
    except ValidationError as error:
        raise PackageError(f"{path} does not make a package named {name!r}: {error}") from error
    for text in imported.notes:
        note(text)
    reference = _reference(imported, note) if check else None

    def probe(model: RecurrentModel) -> dict[str, Tensor]:
        return make_probe(model) if reference is None else agreed_probe(model, reference)

    written = write(
        Path(dir) / name,
        manifest,
        imported.tensors,
        files=imported.files,
        probe=probe,
        overwrite=overwrite,
    )
    if reference is not None:
        note("the package gives the original's rows")
    return written


def _manifest(path: Path, name: str, imported: Imported) -> Manifest:
    fields = {"description": f"imported from {path.name}"} | imported.parts
    return Manifest(name=name, fingerprint="0" * 64, **fields)


def _reference(imported: Imported, note: Callable[[str], object]) -> Reference | None:
    try:
        return imported.original()
    except NoOriginalError as reason:
        note(f"not compared with the original: {reason}")
        return None
