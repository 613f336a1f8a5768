"""What the functions for single layers share. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from carousel_models.errors import PackageError
from carousel_models.importing.ops import Array

COMMON = (
    "name", "trainable", "dtype", "units", "use_bias", "activation", "seed", "batch_input_shape",
    "batch_shape", "input_shape", "input_dim", "input_length", "build_config", "implementation",
)  # fmt: skip
"""Options of many layers. Those that change rows are read where they do."""

TRAINING = ("_initializer", "_regularizer", "_constraint")
"""Ends of the names of options that act in training alone."""


@dataclass(slots=True)
class Reading:
    """A file that is being read.

    Attributes:
        version: of the Keras that wrote it, or "".
        recurrent_activation: of the gates, where a configuration does not have it.
        unpadded: the user never sends padded steps, so masks may be left out.
        notes: for the user.
        rank: dimensions of the rows: 3 with time, 2 after a layer that returns its last step alone.
    """

    version: str
    recurrent_activation: str | None = None
    unpadded: bool = False
    notes: list[str] = field(default_factory=list)
    rank: int = 3

    def check_mask(self, layer: str) -> None:
        """Raises PackageError for a layer that masks steps, unless the user sends none of these."""
        if not self.unpadded:
            raise PackageError(
                f"layer {layer!r} masks steps of padding, and every step of a session counts; give "
                "--unpadded if you will send no padding"
            )
        note = "masks are left out: send no steps of padding"
        if note not in self.notes:
            self.notes.append(note)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with its arrays, in the order of Keras's `layer.weights`."""

    kind: str
    name: str
    config: dict[str, Any]
    arrays: Sequence[Array]

    def taken(self, *names: str, optional: int = 0) -> list[Array]:
        """Its arrays, as many as names. The last `optional` ones may be absent.

        Raises:
            PackageError: it has another number of arrays.
        """
        if not len(names) - optional <= len(self.arrays) <= len(names):
            raise PackageError(
                f"layer {self.name!r} ({self.kind}) has {len(self.arrays)} arrays in the file instead of "
                f"{', '.join(names)}; the file belongs to another model, or another version of Keras wrote it"
            )
        return list(self.arrays)

    def refuse(self, **allowed: object) -> None:
        """Raises PackageError if an option has another value than the allowed one.

        A missing option has the allowed value. So has None, where that is false.
        """
        for name, value in allowed.items():
            found = self.config.get(name, value)
            if found != value and (found or value):
                raise PackageError(
                    f"layer {self.name!r} ({self.kind}) has {name}={found!r}, and a package has "
                    f"{value!r}; train it so, or save the model from torch"
                )

    def refuse_unknown(self, *known: str) -> None:
        """Raises PackageError for an option that is in use and that this code does not know.

        It could change the layer's rows. Initialisers, regularisers and constraints act in training alone.
        """
        for name, value in self.config.items():
            ignored = name in COMMON or name.endswith(TRAINING)
            if value and name not in known and not ignored:
                raise PackageError(
                    f"layer {self.name!r} ({self.kind}) has {name}={value!r}, an option that is not known "
                    "here; save the model from torch, or its weights with a map"
                )

    def inner(self, config: Any, arrays: Sequence[Array]) -> Layer:
        """The layer inside of a wrapper."""
        if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
            raise PackageError(
                f"layer {self.name!r} ({self.kind}) wraps no layer; save the model again"
            )
        return Layer(str(config.get("class_name")), self.name, config["config"], arrays)
