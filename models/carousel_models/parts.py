"""The base class of a manifest's parts, and the types of sizes and names. No torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

MAX_SIZE = 1 << 16

Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
Label = Annotated[str, StringConstraints(max_length=256)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Part(BaseModel):
    """Base class of all parts. It refuses unknown keys, other types and infinite numbers, and is frozen.

    Attributes:
        later: fields that the first packages did not have. They are written where they differ from their
            default, so that older packages keep their fingerprints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        for name in self.later:
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if getattr(self, name) == default:
                fields.pop(name, None)
        return fields
