"""Reads the archives of torch.export as data: a graph in JSON, and weights as bytes.

`torch.export.load` runs what a file says in several places: pickles, expressions that sympy evaluates, names
that are looked up in torch, and guards as Python. So nothing of it is used here.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from carousel_models.damage import UNREADABLE
from carousel_models.errors import PackageError

from .archives import check_unpacked

SCHEMA = 8
"""Major version of the graph's schema. Torch 2.9 to 2.13 write it."""

DTYPES: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Torch's types by their numbers in the schema (`torch._export.serde.schema.ScalarType`)."""

_STRIDED = 7
_AGAIN = "export the step again with plain tensors as weights, by torch.export.save of torch 2.9 or newer"


MAX_BATCH = 4096
"""A dynamic dimension must reach so far at least, so that it takes any batch."""


class Archive(NamedTuple):
    """The contents of a file.

    Attributes:
        graph: the field `graph_module` of the exported program.
        tensors: weights, buffers and constants by their full names.
    """

    graph: dict[str, Any]
    tensors: dict[str, Tensor]


def read_archive(data: bytes, where: str) -> Archive:
    """Reads a `.pt2` file.

    Raises:
        PackageError: it is damaged, of another version, or holds pickles or native code.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_unpacked(archive, where)
            return _read(_Records(archive, where))
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
        RecursionError,
    ) as error:
        raise PackageError(
            f"{where} is damaged or of another version: {error!r}; {_AGAIN}"
        ) from error
    except UNREADABLE as error:
        raise PackageError(
            f"{where} is not an archive of torch.export: {error}; {_AGAIN}"
        ) from error


class _Records:
    """The records of an archive, by their names without the archive's own."""

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self.where = where
        self.names = {name.partition("/")[2]: name for name in archive.namelist()}
        self._archive = archive

    def bytes(self, name: str) -> bytes:
        if name not in self.names:
            raise PackageError(f"{self.where} has no {name}; {_AGAIN}")
        return self._archive.read(self.names[name])

    def json(self, name: str) -> Any:
        return json.loads(self.bytes(name))


def _read(records: _Records) -> Archive:
    if records.bytes("archive_format").strip() != b"pt2":
        raise PackageError(f"{records.where} is not an archive of torch.export; {_AGAIN}")
    if any(name.startswith("data/aotinductor/") for name in records.names):
        raise PackageError(
            f"{records.where} holds compiled native code (AOTInductor), which would run here; {_AGAIN}"
        )
    models = [n for n in records.names if n.startswith("models/") and n.endswith(".json")]
    if len(models) != 1:
        raise PackageError(f"{records.where} holds {len(models)} programs instead of one; {_AGAIN}")
    model = models[0].removeprefix("models/").removesuffix(".json")
    if records.bytes("byteorder").strip() != b"little":
        raise PackageError(f"{records.where} has numbers of another byte order; {_AGAIN}")
    # Pickles are refused before anything else of the file is used.
    weights = _config(records, f"data/weights/{model}_weights_config.json")
    constants = _config(records, f"data/constants/{model}_constants_config.json")
    program = records.json(models[0])
    version = program["schema_version"]["major"]
    if version != SCHEMA:
        raise PackageError(
            f"{records.where} has version {version} of torch's schema, and this version of carousel reads "
            f"{SCHEMA}; {_AGAIN}"
        )
    for name, limits in program["range_constraints"].items():
        if limits["max_val"] is not None and limits["max_val"] < MAX_BATCH:
            raise PackageError(
                f"{records.where} was exported for a dimension {name} of at most {limits['max_val']}, and a "
                'server has larger batches; export it with torch.export.Dim("batch"), without a maximum'
            )
    tensors = _tensors(records, "data/weights/", weights)
    tensors |= _tensors(records, "data/constants/", constants)
    return Archive(program["graph_module"], tensors)


def _config(records: _Records, name: str) -> dict[str, Any]:
    """The list of stored tensors.

    Raises:
        PackageError: one of them would be unpickled.
    """
    entries: dict[str, Any] = records.json(name)["config"]
    for key, entry in entries.items():
        if entry["use_pickle"] is not False:
            raise PackageError(
                f"{records.where} stores {key!r} as a pickle (use_pickle), which can run any code when it is "
                f"loaded; {_AGAIN}"
            )
    return entries


def _tensors(records: _Records, folder: str, entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors from their bytes. Those that share a record share memory."""
    stored: dict[str, bytearray] = {}
    found = {}
    for key, entry in entries.items():
        path = entry["path_name"]
        if path not in stored:
            stored[path] = bytearray(records.bytes(folder + path))
        found[key] = _tensor(stored[path], entry["tensor_meta"], key, records.where)
    return found


def _tensor(data: bytearray, meta: Mapping[str, Any], key: str, where: str) -> Tensor:
    dtype = DTYPES.get(meta["dtype"])
    sizes = [_number(size) for size in meta["sizes"]]
    strides = [_number(stride) for stride in meta["strides"]]
    offset = _number(meta["storage_offset"])
    if dtype is None or meta["layout"] != _STRIDED:
        raise PackageError(
            f"{where}: {key!r} is neither a dense tensor nor of a type that carousel knows; {_AGAIN}"
        )
    if not prod(sizes):
        return torch.empty(sizes, dtype=dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min(*sizes, *strides, offset, 0) < 0 or (last + 1) * dtype.itemsize > len(data):
        raise PackageError(
            f"{where}: {key!r} has {len(data)} bytes, fewer than its shape needs; {_AGAIN}"
        )
    return torch.frombuffer(data, dtype=dtype).as_strided(sizes, strides, offset)


def _number(size: Mapping[str, Any]) -> int:
    number = size["as_int"]
    if not isinstance(number, int):
        raise TypeError(f"{number!r} is not a whole number")
    return number
