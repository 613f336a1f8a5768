"""The arguments of a node in torch.export's JSON, as Python values and references to earlier values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from carousel_models.errors import PackageError

from .pt2_archive import DTYPES


class Reference(NamedTuple):
    """A value that an earlier node has computed, by its name."""

    name: str


_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_LAYOUTS = {7: torch.strided}


def _named(value: Mapping[str, Any]) -> Reference:
    return Reference(value["name"])


def _symbolic(value: Mapping[str, Any]) -> Any:
    """A number, or the name of a computed one."""
    ((kind, inner),) = value.items()
    return Reference(inner) if kind == "as_name" else inner


def _optional(value: Mapping[str, Any]) -> Reference | None:
    ((kind, inner),) = value.items()
    return None if kind == "as_none" else _named(inner)


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [convert(value) for value in values]


def _float(value: float | str) -> float:
    """JSON has no infinities, so they come as words."""
    return math.nan if value == "NaN" else float(value)


_KINDS: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda _: None,
    "as_tensor": _named,
    "as_tensors": _each(_named),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _each(_optional),
    "as_int": int,
    "as_ints": _each(int),
    "as_float": _float,
    "as_floats": _each(_float),
    "as_bool": bool,
    "as_bools": _each(bool),
    "as_string": str,
    "as_strings": _each(str),
    "as_sym_int": _symbolic,
    "as_sym_ints": _each(_symbolic),
    "as_sym_float": _symbolic,
    "as_sym_floats": _each(_symbolic),
    "as_sym_bool": _symbolic,
    "as_sym_bools": _each(_symbolic),
    "as_scalar_type": DTYPES.__getitem__,
    "as_memory_format": _MEMORY_FORMATS.__getitem__,
    "as_layout": _LAYOUTS.__getitem__,
    "as_complex": lambda value: complex(value["real"], value["imag"]),
}
"""What converts each kind of argument. Those with graphs, objects and operators are not among them."""


def value_of(argument: Mapping[str, Any], device: torch.device, where: str) -> Any:
    """The value of an argument: a constant, a Reference, or a list of both.

    A device is the one that the program runs on, wherever it was exported.

    Raises:
        PackageError: it is of a kind that is not supported. It names the kind.
    """
    ((kind, inner),) = argument.items()
    if kind == "as_device":
        return device
    if kind not in _KINDS:
        raise PackageError(
            f"{where} has an argument of kind {kind!r}, which is not supported; export a step without "
            "control flow and objects"
        )
    return _KINDS[kind](inner)


def names_of(outputs: list[Mapping[str, Any]]) -> tuple[list[str], bool]:
    """The names that a node gives to its results, and whether its operator returns several.

    Results that nothing can read have the name "".
    """
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        return [entry["name"] for entry in outputs[0]["as_tensors"]], True
    return [_name(output) for output in outputs], len(outputs) > 1


def _name(output: Mapping[str, Any]) -> str:
    ((kind, inner),) = output.items()
    if kind == "as_none":
        return ""
    return str(inner["name"] if kind == "as_tensor" else inner["as_name"])
