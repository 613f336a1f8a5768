"""Reads ONNX files: a chain of layers as built-in ones, and any other graph as a program."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from carousel_models.errors import PackageError
from carousel_models.importing import programs
from carousel_models.importing.assembly import assemble
from carousel_models.importing.imported import Imported
from carousel_models.importing.program_files import file_bytes
from carousel_models.spec import Output

from .graph import Graph, graph_of
from .original import Original
from .reading import Reading
from .recurrent import FORMS
from .values import Rows
from .walking import Walker


def read(path: Path, *, output: str | None = None, **of_program: Any) -> Imported:
    """A chain of layers, else a step graph.

    Args:
        path: the file.
        output: the output that gives the rows.
        of_program: other options of `programs.read`. With one of them, the file is a step graph.

    Raises:
        PackageError: the file is neither. The message has both reasons.
    """
    given = {name: value for name, value in of_program.items() if value}
    if given:
        return programs.read(path, output=output, **given)
    if find_spec("onnx") is None:
        found = programs.read(path, output=output)
        note = (
            "it was read as a step graph; reading layers out of ONNX files needs onnx: pip install "
            "'carousel-serving[import]'"
        )
        return replace(found, notes=(note, *found.notes))
    data, _ = file_bytes(path)
    graph = graph_of(data, path.name)
    reading = Reading(_opset(graph))
    try:
        return _chain(path, data, graph, reading, output)
    except PackageError as reason:
        return _program(path, output, graph, reason)


def _chain(path: Path, data: bytes, graph: Graph, reading: Reading, output: str | None) -> Imported:
    found = Walker(graph, reading).found(output)
    if not reading.steps_through_time:
        raise PackageError(
            "it has no recurrent layer (LSTM, GRU or RNN) along an axis of its input"
        )
    parts, tensors = assemble(found.chain)
    parts["output"] = Output(transform=parts["output"].transform, select=found.output.select)
    if any(array.dtype in (np.float16, np.float64) for array in graph.constants.values()):
        reading.note("weights of other types than float32 are stored as float32")
    notes = (*reading.notes, *_notes(path, graph, found.raw, reading))
    original = Original(data, graph, found, reading)
    return Imported(parts, tensors, notes, original.reference)


def _program(path: Path, output: str | None, graph: Graph, reason: PackageError) -> Imported:
    """The file as a step graph, if it can be one."""
    several = len(graph.inputs) > 1 and len(graph.outputs) > 1
    if not several:
        raise PackageError(
            f"{path.name} is no chain of layers: {reason}. It is no step graph either: that has a state "
            "among its inputs and its outputs"
        ) from reason
    try:
        found = programs.read(path, output=output)
    except PackageError as other:
        raise PackageError(
            f"{path.name} is no chain of layers: {reason}. It is no step graph either: {other}"
        ) from other
    if any(node.op in FORMS for node in graph.nodes):
        why = f"it is a program, as it is no chain of layers: {reason}"
        return replace(found, notes=(*found.notes, why))
    return found


def _opset(graph: Graph) -> int:
    own = [one.version for one in graph.opsets if one.domain in ("", "ai.onnx")]
    return int(own[0]) if own else 1


def _notes(path: Path, graph: Graph, rows: Rows, reading: Reading) -> list[str]:
    """Sentences on what the file gave, and what a package gives."""
    notes = [f"{path.name} {STEPS[rows.steps]}"] if rows.steps in STEPS else []
    used = {rows.source, *reading.states, *reading.lengths}
    unused = [port.name for port in graph.inputs if port.name not in used]
    if unused:
        notes.append(f"inputs that nothing reads: {', '.join(unused)}")
    return notes


STEPS = {
    "last": "returned its last step alone: a session gives a row at each step, and the original's output is "
    "the row of the last one",
    "first": "returned its first step alone: a package gives a row for each step, and the original's output "
    "is the row of the first one",
    "ends": "returned the last step of one direction and the first of the other: Infer gives the rows of "
    "all steps, and the original's output is a half of each",
}
"""What a user is told where a file gave one row of a sequence."""
