"""Files of torch.export (`.pt2`), run by a graph runner of Carousel's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from carousel_models.errors import PackageError

from .interface import Call, Dimension, Port, Signature
from .pt2_archive import DTYPES, read_archive
from .pt2_graph import Graph

_SYMBOL = re.compile(r"Symbol\('(\w+)'.*\)|(\w+)")

_STORED = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}
"""Kinds of inputs that are stored tensors, and the field with the tensor's name."""


def load(data: bytes, device: torch.device, where: str) -> Pt2Program:
    """Loads a file of torch.export onto a device, without a pickle and without torch.export.load.

    Raises:
        PackageError: the file is damaged, holds pickles or native code, or calls something other than ATen.
    """
    archive = read_archive(data, where)
    try:
        return Pt2Program(archive.graph, archive.tensors, device, where)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PackageError(
            f"{where} is damaged or of another version: {error!r}; export the step again"
        ) from error


class Pt2Program:
    """An exported graph with its weights."""

    fresh = False

    def __init__(
        self,
        module: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        device: torch.device,
        where: str,
    ) -> None:
        self.device = device
        graph, signature = module["graph"], module["signature"]
        self._weights: dict[str, Any] = {}
        users: list[str] = []
        for spec in signature["input_specs"]:
            self._enter(spec, tensors, users, where)
        _refuse_mutations(signature["output_specs"], where)
        self._graph = Graph(graph, device, where)
        self._outputs = _output_names(module, len(graph["outputs"]))
        metas = graph["tensor_values"]
        names = [output["as_tensor"]["name"] for output in graph["outputs"]]
        self.signature = Signature(
            tuple(_port(name, metas[name]) for name in users),
            tuple(_port(n, metas[name]) for n, name in zip(self._outputs, names, strict=True)),
        )

    @property
    def shared(self) -> Mapping[str, Tensor]:
        """Its weights."""
        return {name: t for name, t in self._weights.items() if isinstance(t, Tensor)}

    def bind(
        self, inputs: Sequence[str], outputs: Sequence[str], constants: Mapping[str, Tensor]
    ) -> Call:
        """See `Program`."""
        always = self._weights | dict(constants)
        wanted = [self._outputs.index(name) for name in outputs]

        def call(given: Sequence[Tensor]) -> list[Tensor]:
            found = self._graph.run(always | dict(zip(inputs, given, strict=True)))
            return [found[place] for place in wanted]

        return call

    def _enter(
        self, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], users: list[str], where: str
    ) -> None:
        """Takes one input of the graph: a stored tensor, a constant, or one that the caller gives."""
        ((kind, entry),) = spec.items()
        if kind in _STORED:
            stored = tensors[entry[_STORED[kind]]]
            self._weights[entry["arg"]["name"]] = stored.to(self.device)
        elif kind == "user_input" and "as_tensor" in entry["arg"]:
            users.append(entry["arg"]["as_tensor"]["name"])
        elif kind == "constant_input":
            ((_, value),) = entry["value"].items()
            self._weights[entry["name"]] = value
        else:
            raise PackageError(
                f"{where} has an input of kind {kind!r} that is no tensor; export a step whose inputs "
                "are tensors"
            )


def _refuse_mutations(specs: Sequence[Mapping[str, Any]], where: str) -> None:
    for spec in specs:
        ((kind, entry),) = spec.items()
        if kind != "user_output":
            what = entry.get("buffer_name") or entry.get("parameter_name") or kind
            raise PackageError(
                f"{where} changes its own tensor {what!r}, and all sessions share that; export a step that "
                "takes what it remembers as an input, and returns it"
            )


def _output_names(module: Mapping[str, Any], count: int) -> list[str]:
    """The keys of a returned dictionary of tensors. Other outputs are counted from 0."""
    spec = json.loads(module["module_call_graph"][0]["signature"]["out_spec"])[1]
    if spec["type"] == "builtins.dict":
        keys = json.loads(spec["context"])
        leaves = all(not child["children_spec"] for child in spec["children_spec"])
        if len(keys) == count and leaves and all(isinstance(key, str) for key in keys):
            return list(keys)
    return [str(number) for number in range(count)]


def _port(name: str, meta: Mapping[str, Any]) -> Port:
    dtype = DTYPES.get(meta["dtype"])
    label = str(dtype).removeprefix("torch.") if dtype else f"type {meta['dtype']}"
    return Port(name, label, tuple(_dimension(size) for size in meta["sizes"]))


def _dimension(size: Mapping[str, Any]) -> Dimension:
    if "as_int" in size:
        return int(size["as_int"])
    found = _SYMBOL.fullmatch(size["as_expr"]["expr_str"])
    return (found[1] or found[2]) if found else None
