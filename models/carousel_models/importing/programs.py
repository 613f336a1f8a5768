"""Reads step graphs (ONNX, TorchScript, torch.export) as programs: the file itself goes into the package."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from carousel_models.errors import PackageError
from carousel_models.program_spec import (
    ProgramConstant,
    ProgramPart,
    ProgramPort,
    ProgramState,
)
from carousel_models.programs import Port, Program, open_program, runtime_of
from carousel_models.programs.files import digest
from carousel_models.spec import FeaturesInput
from carousel_models.stack_parts import CONTEXT

from .free_batch import freed
from .imported import Imported
from .program_files import file_bytes
from .program_options import (
    BATCH,
    listed,
    said_axes,
    said_constants,
    said_port,
    said_shapes,
    said_states,
)
from .program_originals import ORIGINALS
from .program_runs import Found, find_shapes
from .program_states import Roles, find_roles, pair_by_name

PART = "program"
"""The name of the part, which stands before the names of its states."""


def read(
    path: Path,
    *,
    state: Sequence[str] = (),
    constant: Sequence[str] = (),
    context: int = 0,
    shape: Sequence[str] = (),
    input: str | None = None,  # noqa: A002 - the command line's word
    output: str | None = None,
    free_batch: bool = False,
) -> Imported:
    """A step graph as a program.

    Args:
        path: the file.
        state: IN:OUT for each state that names and shapes do not show.
        constant: NAME=NUMBER for each input that is always the same.
        context: so many numbers of the rows before stand in front of each row.
        shape: NAME=DIMS for inputs whose shapes the file leaves open, with B for the batch axis.
        input: the input that takes the row.
        output: the output that gives it.
        free_batch: change an ONNX graph that was exported for one row, so that it takes many.

    Raises:
        PackageError: the file is damaged or holds code, or the roles of its ports are not clear.
    """
    where = path.name
    data, notes = file_bytes(path)
    runtime = runtime_of(where)
    if free_batch:
        data, more = freed(data, said_axes(shape), where)
        notes = [*notes, *more]
    program = open_program(runtime, data, torch.device("cpu"), where)
    inputs = said_shapes(shape, program.signature.inputs, where)
    constants = said_constants(constant, inputs, where)
    found, roles = _resolved(program, inputs, constants, (state, input, output), where)
    if free_batch and not found.batched:
        raise PackageError(
            f"the batch axis of {where} cannot be freed: {found.why}; leave out --free-batch, and each "
            "session is a call of its own"
        )
    part = _part(found, roles, constants, context, _name_in_package(path), digest(data), runtime)
    return Imported(
        parts={"input": FeaturesInput(width=part.input.elements - context), "parts": (part,)},
        tensors={},
        notes=(*notes, *_notes(part, found, roles, program)),
        original=partial(ORIGINALS[runtime], path, part),
        files={part.file: data},
    )


def _resolved(
    program: Program,
    inputs: Sequence[Port],
    constants: Sequence[ProgramConstant],
    said: tuple[Sequence[str], str | None, str | None],
    where: str,
) -> tuple[Found, Roles]:
    """All shapes, and what each port is."""
    state, input_, output = said
    fixed = {one.name for one in constants}
    varying = [port for port in inputs if port.name not in fixed]
    if numbers := [port for port in varying if port.scalar]:
        raise PackageError(
            f"{where} takes the plain number {numbers[0]}, which no row or state can be; give "
            f"--constant {numbers[0].name}=NUMBER"
        )
    found = find_shapes(program, varying, constants, where)
    x = said_port("--input", input_, found.inputs, where)
    y = said_port("--output", output, found.outputs, where)
    pairs = said_states(state, found.inputs, found.outputs, where)
    free_inputs = [p for p in found.inputs if p is not x and p.name not in pairs]
    free_outputs = [p for p in found.outputs if p is not y and p.name not in pairs.values()]
    pairs |= pair_by_name(free_inputs, free_outputs)
    _check_pairs(pairs, found, where)
    return found, find_roles(found.inputs, found.outputs, pairs, (x, y), where)


def _check_pairs(pairs: dict[str, str], found: Found, where: str) -> None:
    inputs = {port.name: port for port in found.inputs}
    outputs = {port.name: port for port in found.outputs}
    for enter, leave in pairs.items():
        before, after = inputs[enter], outputs[leave]
        if (before.dtype, before.dims) != (after.dtype, after.dims):
            raise PackageError(
                f"{where}: the state {before} would become {after}, of another shape or type. Outputs: "
                f"{listed(found.outputs)}; pair it with another output by --state {enter}:OUT"
            )


def _part(
    found: Found,
    roles: Roles,
    constants: tuple[ProgramConstant, ...],
    context: int,
    file: str,
    sha256: str,
    runtime: Any,
) -> ProgramPart:
    inputs = {port.name: port for port in found.inputs}
    outputs = {port.name: port for port in found.outputs}
    names = _state_names(list(roles.states))
    try:
        return ProgramPart(
            name=PART,
            runtime=runtime,
            file=file,
            sha256=sha256,
            input=_port(inputs[roles.input]),
            output=_port(outputs[roles.output]),
            carried=tuple(
                ProgramState.model_validate(
                    {
                        **_facts(inputs[enter]),
                        "name": name,
                        "enters": enter,
                        "leaves": leave,
                    }
                )
                for name, (enter, leave) in zip(names, roles.states.items(), strict=True)
            ),
            constants=constants,
            context=context,
            batch="symbolic" if found.batched else "one",
        )
    except ValidationError as error:
        problems = "; ".join(problem["msg"] for problem in error.errors(include_url=False))
        raise PackageError(f"{file} does not make a program: {problems}") from error


def _port(port: Port) -> ProgramPort:
    return ProgramPort.model_validate({"name": port.name, **_facts(port)})


def _facts(port: Port) -> dict[str, Any]:
    dims = port.dims or ()
    axis = dims.index(BATCH) if BATCH in dims else 0
    return {"shape": tuple(d for d in dims if d != BATCH), "dtype": port.dtype, "axis": axis}


def _state_names(ports: Sequence[str]) -> list[str]:
    """Names that clients can use, from the program's own. Characters that a name cannot have become "_"."""
    found: list[str] = []
    for port in ports:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", port).strip("._-")[:24] or "state"
        name, number = plain, 1
        while name in (*found, CONTEXT):
            number += 1
            name = f"{plain}_{number}"
        found.append(name)
    return found


def _name_in_package(path: Path) -> str:
    end = path.suffix.lower()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", path.name[: -len(end)]).strip("._-")
    return (plain[: 64 - len(end)] or PART) + end


def _notes(part: ProgramPart, found: Found, roles: Roles, program: Program) -> list[str]:
    states = ", ".join(f"{one.enters}:{one.leaves}" for one in part.carried) or "none"
    notes = [f"a step takes {roles.input} and gives {roles.output}; states: {states}"]
    if roles.unused:
        notes.append(f"outputs that nothing reads: {', '.join(roles.unused)}")
    if part.batch == "one":
        notes.append(
            f"each session is a call of its own, as {found.why}; a call takes about "
            f"{_microseconds(part, program):.0f} µs here, so a step of 100 sessions takes 100 of them"
            + ("; --free-batch may change that" if part.runtime == "onnx" else "")
        )
    return notes


def _microseconds(part: ProgramPart, program: Program) -> float:
    """The time of one call on this machine, after one that warms up."""
    fixed = {
        c.name: torch.full(c.shape, c.value, dtype=getattr(torch, c.dtype)) for c in part.constants
    }
    ports: tuple[ProgramPort | ProgramState, ...] = (part.input, *part.carried)
    zeros = [torch.zeros(port.shape, dtype=getattr(torch, port.dtype)) for port in ports]
    enters = [part.input.name, *(one.enters for one in part.carried)]
    call = program.bind(enters, [part.output.name], fixed)
    times = []
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            call([zero.clone() for zero in zeros])
            times.append(time.perf_counter() - start)
    return min(times) * 1e6
