"""Reads the archives of TorchScript, and refuses code that does more than compute."""

from __future__ import annotations

import io
import re
import zipfile

from carousel_models.damage import UNREADABLE
from carousel_models.errors import PackageError

from .archives import check_unpacked

_TEXT = re.compile(
    r"#[^\n]*"
    r"|'''(?:\\.|(?!''').)*'''|\"\"\"(?:\\.|(?!\"\"\").)*\"\"\""
    r"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"",
    re.DOTALL,
)
"""Comments and strings of TorchScript. The first that starts hides those in it."""

_FILES = re.compile(r"\b(save|load|from_file)\b")
"""Names of TorchScript's calls that read or write files. A call can be renamed, so each use counts."""

_FOREIGN = re.compile(
    r"(?<![.\w])ops\b(?!\s*:)(?!\.(aten|prim|quantized|_quantized|sparse|mkldnn_prepacked|xnnpack)\b)"
    r"|\btorch\s*\.\s*(ops|classes)\b(?!\.(quantized|rnn|sparse|xnnpack)\b)"
)
"""Operators and classes outside of these namespaces. Some work on raw memory, files or other machines."""


def sealed(data: bytes, where: str) -> bytes:
    """The archive again, with the records that were checked here and nothing else.

    Another reader could find other records in the same bytes. So torch gets these.

    Raises:
        PackageError: it is damaged, has no code, or its code does more than compute.
    """
    found = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_unpacked(archive, where)
            records = archive.namelist()
            code = [name for name in records if name.lower().endswith(".py")]
            if len(set(records)) < len(records):
                raise PackageError(f"{where} has two records of one name; save it again")
            with zipfile.ZipFile(found, "w") as copy:
                for name in records:
                    record = archive.read(name)
                    if name in code:
                        _check_code(record, name, where)
                    copy.writestr(zipfile.ZipInfo(name), record)
    except UNREADABLE as error:
        raise PackageError(
            f"{where} is not a TorchScript archive: {error}; save it with torch.jit.script(module).save(path)"
        ) from error
    if not code:
        raise PackageError(
            f"{where} has no TorchScript code, as a file of torch.save; save the model with "
            "carousel_models.save, or make a step graph with torch.jit.script or torch.export"
        )
    return found.getvalue()


def _check_code(record: bytes, name: str, where: str) -> None:
    """Raises PackageError if the code of a record names what it must not use."""
    text = record.decode()
    code = _TEXT.sub('""', text)
    strings = _TEXT.findall(text) if "getattr" in code else []
    hidden = [s for s in strings if "\\" in s or _FILES.fullmatch(s.strip("'\""))]
    if hidden or _FILES.search(code):
        raise PackageError(
            f"{where} reads or writes files in {name}, or has a name such as save or load; a step must "
            "depend on its inputs and states only, so rename what only has such a name"
        )
    foreign = _FOREIGN.search(code)
    if foreign:
        raise PackageError(
            f"{where} uses operators or classes of other libraries in {name} ({foreign[0]!r}), or has "
            "a variable of such a name; make the step of torch's own operators, and rename the variable"
        )
