"""The base class of a manifest's parts, and the types of sizes and names. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_SIZE = 1 << 16

Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
Label = Annotated[str, StringConstraints(max_length=256)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Part(BaseModel):
    """Base class of all parts. It refuses unknown keys, other types and infinite numbers, and is frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
