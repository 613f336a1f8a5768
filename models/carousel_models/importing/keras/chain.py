"""A Keras model as a chain of operations. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from carousel_models.errors import PackageError
from carousel_models.importing.ops import Array, Chain, Op, Skip

from .graph import Node
from .layers import LAYERS
from .reading import Layer, Reading

INPUT_PLACE = -1
"""Place of the input of tokens, which has no rows yet."""

COMPUTED = ("float16", "bfloat16", "float64")
"""Types in which Keras may compute. Carousel computes in float32."""


class ChainBuilder:
    """Reads layers one after the other.

    Each layer's output has a place, the number of operations before it. So an Add of two places is a residual
    around the operations between them.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._ops: list[Op] = []
        self._places: dict[str, int] = {}
        self._embedding: Array | None = None

    def add(self, node: Node, arrays: Sequence[Array]) -> None:
        """Reads the next layer.

        Raises:
            PackageError: a package cannot have it. The message has its name.
        """
        layer = Layer(node.kind, node.name, node.config, arrays)
        self._check_type(layer)
        if node.masked:
            self._reading.check_mask(layer.name)
        if node.kind == "Add":
            self._add_residual(node)
            return
        if node.kind != "InputLayer":
            self._check_place(node)
        if node.kind == "Embedding":
            self._look_up(layer)
        elif node.kind in LAYERS:
            self._ops += LAYERS[node.kind](layer, self._reading)
        else:
            raise PackageError(
                f"layer {node.name!r} is a {node.kind}, which the import of Keras does not read; see "
                "docs/guides/bring-your-model.md for the layers that it reads, export one step with its "
                "states as ONNX, or write it as a custom module of torch"
            )
        self._places[node.name] = len(self._ops)

    def chain(self, output: str) -> Chain:
        """The chain to the output of the last layer."""
        assert self._places[output] == len(self._ops), "all layers are needed for the last one"
        return Chain(tuple(self._ops), self._embedding)

    def _check_place(self, node: Node) -> None:
        if len(node.inputs) != 1 or self._places.get(node.inputs[0]) != len(self._ops):
            sources = ", ".join(map(repr, node.inputs))
            raise PackageError(
                f"layer {node.name!r} takes {sources}, and not the output just before it: the model "
                "branches, and a package has a chain with residuals (Add); save it with a custom module"
            )

    def _look_up(self, layer: Layer) -> None:
        if self._ops or self._embedding is not None:
            raise PackageError(
                f"layer {layer.name!r} (Embedding) is not the first; make it the first"
            )
        layer.refuse(quantization_config=None, lora_rank=None)
        if layer.config.get("mask_zero"):
            self._reading.check_mask(layer.name)
        (self._embedding,) = layer.taken("embeddings")
        if self._embedding.ndim != 2:
            raise PackageError(
                f"layer {layer.name!r} has no table [tokens, width]; save the model again"
            )
        self._places = dict.fromkeys(self._places, INPUT_PLACE)

    def _add_residual(self, node: Node) -> None:
        places = sorted(self._places.get(name, INPUT_PLACE) for name in node.inputs)
        if len(places) != 2 or not 0 <= places[0] < places[1] == len(self._ops):
            raise PackageError(
                f"layer {node.name!r} (Add) does not add the input of a layer to its output; a package has "
                "such residuals alone"
            )
        start = places[0]
        self._ops[start:] = [Skip(tuple(self._ops[start:]))]
        # Outputs inside of the residual are of no further use.
        self._places = {name: place for name, place in self._places.items() if place <= start}
        self._places[node.name] = len(self._ops)

    def _check_type(self, layer: Layer) -> None:
        policy = layer.config.get("dtype")
        if isinstance(policy, dict):
            policy = policy.get("config", {}).get("name")
        name = str(policy or "float32")
        if "int8" in name or "float8" in name or "int4" in name:
            raise PackageError(
                f"layer {layer.name!r} is quantised ({name}); save the model before it is quantised"
            )
        note = f"the model computed in {name}, and Carousel computes in float32"
        if any(computed in name for computed in COMPUTED) and note not in self._reading.notes:
            self._reading.notes.append(note)
