"""The layers of a Keras model from its JSON, and the layer that each takes its input from. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from carousel_models.errors import PackageError

FUNCTIONAL = ("Functional", "Model")
"""Class names of functional models. Keras 2 wrote Model."""


@dataclass(frozen=True, slots=True)
class Node:
    """A layer.

    Attributes:
        kind: its class.
        name: its name.
        config: its configuration.
        inputs: names of the layers that it takes its input from.
        masked: it is called with a mask.
    """

    kind: str
    name: str
    config: dict[str, Any]
    inputs: tuple[str, ...]
    masked: bool = False


def nodes_of(model: dict[str, Any]) -> tuple[list[Node], str]:
    """All layers, each after those that it takes its input from, and the name of the output's layer.

    Layers that compute masks alone are among them, and no other layer has them as input.

    Raises:
        PackageError: the model is neither sequential nor functional, has several inputs or outputs, or uses a
            layer twice.
    """
    kind, config = model.get("class_name"), model.get("config")
    if kind == "Sequential" and isinstance(config, dict | list):
        return _sequential(config["layers"] if isinstance(config, dict) else config)
    if kind in FUNCTIONAL and isinstance(config, dict):
        return _functional(config)
    raise PackageError(
        f"the model is a {kind}, and its calls are code; import a Sequential or a functional model, or save "
        "the weights as .npz and import them with a map"
    )


def _sequential(layers: list[dict[str, Any]]) -> tuple[list[Node], str]:
    found: list[Node] = []
    for number, layer in enumerate(layers):
        kind, config = _parts(layer)
        name = str(config.get("name", f"{kind}_{number}"))
        found.append(Node(kind, name, config, (found[-1].name,) if found else ()))
    if not found:
        raise PackageError("the model has no layers; save it after it was built")
    if found[0].kind != "InputLayer":
        first = Node("InputLayer", "", {}, ())
        found = [first, Node(found[0].kind, found[0].name, found[0].config, ("",)), *found[1:]]
    return found, found[-1].name


def _parts(layer: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(layer, dict) or not isinstance(layer.get("config"), dict):
        raise PackageError("a layer has no configuration; give the JSON of model.to_json()")
    return str(layer.get("class_name")), layer["config"]


def _functional(config: dict[str, Any]) -> tuple[list[Node], str]:
    found: dict[str, Node] = {}
    for layer in config.get("layers", []):
        kind, own = _parts(layer)
        name = str(layer.get("name", own.get("name", "")))
        calls = layer.get("inbound_nodes", [])
        if len(calls) > 1:
            raise PackageError(
                f"layer {name!r} is used {len(calls)} times; a package has each layer once"
            )
        found[name] = Node(kind, name, own, tuple(_histories(calls, name)), _has_mask(calls))
    _one(config.get("input_layers"), "inputs")
    output = _one(config.get("output_layers"), "outputs")
    return _sorted(found), output


def _one(ends: Any, what: str) -> str:
    """The name of the only input or output, as ["name", 0, 0] or [["name", 0, 0]]."""
    listed = ends if isinstance(ends, list) and ends and isinstance(ends[0], list) else [ends]
    if isinstance(ends, dict) or len(listed) != 1 or not isinstance(listed[0], list):
        raise PackageError(f"the model has several {what}; import a model with one of each")
    return str(listed[0][0])


def _histories(call: Any, layer: str) -> Iterator[str]:
    """Names of the layers whose outputs are among the arguments of a call.

    Keras 3 writes {"config": {"keras_history": [name, node, tensor]}}. Keras 2 writes [name, node, tensor,
    {arguments}]. Masks are left out.
    """
    if isinstance(call, dict):
        history = call.get("keras_history")
        if history is not None:
            yield _history(history, layer)
            return
        for argument, value in call.items():
            if argument != "mask":
                yield from _histories(value, layer)
    elif isinstance(call, list):
        if len(call) >= 3 and isinstance(call[0], str) and isinstance(call[1], int):
            yield _history(call, layer)
            yield from _histories(call[3:], layer)
            return
        for value in call:
            yield from _histories(value, layer)


def _has_mask(call: Any) -> bool:
    """True if a mask is among the arguments of a call."""
    if isinstance(call, dict):
        return bool(call.get("mask")) or any(map(_has_mask, call.values()))
    return isinstance(call, list) and any(map(_has_mask, call))


def needed(nodes: list[Node], output: str) -> list[Node]:
    """The layers that an output is computed from."""
    names = {output}
    for node in reversed(nodes):
        if node.name in names:
            names.update(node.inputs)
    return [node for node in nodes if node.name in names]


def _history(history: Any, layer: str) -> str:
    name, node, tensor = history[:3]
    if node or tensor:
        raise PackageError(
            f"layer {layer!r} takes another output of {name!r} than its first; a package has one row a step"
        )
    return str(name)


def _sorted(nodes: dict[str, Node]) -> list[Node]:
    """The nodes, each after its inputs."""
    found: dict[str, Node] = {}
    left = dict(nodes)
    while left:
        ready = [node for node in left.values() if all(name in found for name in node.inputs)]
        if not ready:
            raise PackageError(
                f"the layers {', '.join(left)} have no way from an input; save it again"
            )
        for node in ready:
            found[node.name] = left.pop(node.name)
    return list(found.values())
