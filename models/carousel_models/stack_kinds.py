"""The kinds of parts that a stack can have. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .chain_parts import ConvPart, LayersPart, RowConvPart, RowsPart
from .joining_parts import AddPart, ConcatPart, MultiplyPart
from .program_spec import ProgramPart
from .spectral_parts import IrfftPart, MagnitudePart, PhasePart, PolarPart, RfftPart, WindowPart

AnyStackPart = Annotated[
    ProgramPart
    | LayersPart
    | RowsPart
    | ConvPart
    | RowConvPart
    | WindowPart
    | RfftPart
    | IrfftPart
    | MagnitudePart
    | PhasePart
    | PolarPart
    | ConcatPart
    | AddPart
    | MultiplyPart,
    Field(discriminator="kind"),
]
"""A part of a stack, of any kind."""

__all__ = [
    "AddPart",
    "AnyStackPart",
    "ConcatPart",
    "ConvPart",
    "IrfftPart",
    "LayersPart",
    "MagnitudePart",
    "MultiplyPart",
    "PhasePart",
    "PolarPart",
    "ProgramPart",
    "RfftPart",
    "RowConvPart",
    "RowsPart",
    "WindowPart",
]
