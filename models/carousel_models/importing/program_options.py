"""The options of a step graph's import: said shapes, states and constants, compared with its ports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from carousel_models.errors import PackageError
from carousel_models.program_spec import Dtype, ProgramConstant
from carousel_models.programs import Port

BATCH = "B"
"""The name of the batch axis in a said shape, as in --shape state=2,B,128."""

_SHAPE = re.compile(r"(?P<name>.+)=(?P<dims>[0-9Bb, ]*)(:(?P<dtype>[a-z0-9]+))?")
_WHOLE = ("int8", "int16", "int32", "int64", "uint8")


def listed(ports: Iterable[Port]) -> str:
    """Ports for an error: names, types and dimensions."""
    return " | ".join(map(str, ports)) or "none"


def said_shapes(texts: Sequence[str], ports: Sequence[Port], where: str) -> tuple[Port, ...]:
    """The ports with the shapes that were said.

    Args:
        texts: NAME=DIMS or NAME=DIMS:DTYPE each, with dimensions such as 2,B,128.
        ports: all inputs.
        where: the file, for errors.

    Raises:
        PackageError: a text has another form, or names no input.
    """
    found = {port.name: port for port in ports}
    for text in texts:
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise PackageError(
                f"--shape {text!r} is not understood; write NAME=DIMS, with B for the batch axis, as in "
                "--shape state=2,B,128 or --shape tokens=B:int64"
            )
        name, dtype = match["name"], match["dtype"]
        port = found.get(name) or _unknown("--shape", name, ports, where)
        if port.scalar:
            raise PackageError(
                f"{where}: {name!r} is a number and has no shape; give --constant {name}=…"
            )
        if dtype is not None and dtype not in get_args(Dtype):
            raise PackageError(
                f"--shape {text!r} has no type {dtype!r}; use {', '.join(get_args(Dtype))}"
            )
        sizes = [size.strip().upper() for size in match["dims"].split(",") if size.strip()]
        dims = tuple(BATCH if size == BATCH else int(size) for size in sizes)
        if dims.count(BATCH) > 1 or 0 in dims:
            raise PackageError(f"--shape {text!r} has a dimension 0 or two batch axes; correct it")
        found[name] = Port(name, dtype or port.dtype, dims)
    return tuple(port if port.dtype else port._replace(dtype="float32") for port in found.values())


def said_axes(texts: Sequence[str]) -> dict[str, int]:
    """The place of the batch axis of each input whose shape was said with one."""
    matches = [match for match in map(_SHAPE.fullmatch, texts) if match is not None]
    sizes = {m["name"]: [size.strip().upper() for size in m["dims"].split(",")] for m in matches}
    return {name: dims.index(BATCH) for name, dims in sizes.items() if BATCH in dims}


def said_constants(
    texts: Sequence[str], ports: Sequence[Port], where: str
) -> tuple[ProgramConstant, ...]:
    """Constants from NAME=NUMBER each, in the types and shapes of their inputs.

    Raises:
        PackageError: a text has another form, names no input, or its number does not fit the input.
    """
    found = []
    for text in texts:
        name, sign, number = text.rpartition("=")
        port = next((port for port in ports if port.name == name), None)
        if not sign:
            raise PackageError(
                f"--constant {text!r} is not understood; write NAME=NUMBER, as in sr=16000"
            )
        port = port or _unknown("--constant", name, ports, where)
        dims = port.dims or ()
        shape = tuple(size for size in dims if isinstance(size, int))
        if len(shape) < len(dims):
            raise PackageError(
                f"{where}: the input {port} has an open dimension, so it is no constant; say its shape with "
                f"--shape {name}=DIMS"
            )
        value = _number(number, port, where)
        found.append(
            ProgramConstant.model_validate(
                {"name": name, "value": value, "shape": shape, "dtype": port.dtype or "float32"}
            )
        )
    return tuple(found)


def said_states(
    texts: Sequence[str], inputs: Sequence[Port], outputs: Sequence[Port], where: str
) -> dict[str, str]:
    """Outputs by the inputs whose next value they are, from IN:OUT each.

    Raises:
        PackageError: a text names no input or no output, or one of them twice.
    """
    enters, leaves = {port.name for port in inputs}, {port.name for port in outputs}
    pairs: dict[str, str] = {}
    for text in texts:
        splits = [(text[:at], text[at + 1 :]) for at, sign in enumerate(text) if sign == ":"]
        fitting = [pair for pair in splits if pair[0] in enters and pair[1] in leaves]
        if len(fitting) != 1:
            raise PackageError(
                f"--state {text!r} does not pair an input with an output of {where}. Inputs: "
                f"{listed(inputs)}. Outputs: {listed(outputs)}; write IN:OUT"
            )
        ((enter, leave),) = fitting
        if enter in pairs or leave in pairs.values():
            raise PackageError(
                f"--state {text!r} names a port that another --state has; say each once"
            )
        pairs[enter] = leave
    return pairs


def said_port(option: str, name: str | None, ports: Sequence[Port], where: str) -> Port | None:
    """The port of a name that was said. None if none was.

    Raises:
        PackageError: there is no such port.
    """
    if name is None:
        return None
    return next((p for p in ports if p.name == name), None) or _unknown(option, name, ports, where)


def _unknown(option: str, name: str, ports: Sequence[Port], where: str) -> Port:
    raise PackageError(f"{where} has no {name!r}, which {option} names; it has {listed(ports)}")


def _number(text: str, port: Port, where: str) -> bool | int | float:
    words: Mapping[str, bool] = {"true": True, "false": False}
    try:
        value = words[text.lower()] if text.lower() in words else float(text)
        if port.dtype == "bool":
            return {0.0: False, 1.0: True}[float(value)]
        if port.dtype in _WHOLE:
            value = int(text) if re.fullmatch(r"[+-]?\d+", text) else value
            if value != int(value):
                raise ValueError
            return int(value)
    except (ValueError, KeyError, OverflowError):
        raise PackageError(
            f"--constant {port.name}={text} is no number for the input {port} of {where}; give one of "
            "its type"
        ) from None
    return value
