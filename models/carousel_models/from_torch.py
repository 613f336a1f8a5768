"""Converts torch modules to layer specs and tensors of a package. The gate order is torch's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsFloat, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .cell_facts import Cell, facts_of
from .cell_modules import layered
from .cells import CELLS, MODULES, OWN_MODULES, RecurrentLayers
from .custom import CUSTOM_PREFIX, tensors_of
from .errors import PackageError
from .given_parts import GivenPart, given_parts
from .heads import head_of
from .lookup import entry
from .row_modules import Named, batch_norm_scale, part_of, put_scale
from .row_parts import NormPart, RowPart
from .spec import (
    CustomSpec,
    FeaturesInput,
    Head,
    Input,
    LayerSpec,
    NoHead,
    Normalization,
    Projection,
    TokensInput,
)
from .stack_parts import StackPart
from .wrappers import bare

Module = TypeVar("Module", bound=nn.Module)
Tensors = dict[str, Tensor]
Normalizing = tuple[Iterable[SupportsFloat], Iterable[SupportsFloat]]
RecurrentModule = nn.RNNBase | RecurrentLayers
Layered = RecurrentModule | nn.RNNCellBase | Sequence[RecurrentModule | nn.RNNCellBase] | nn.Module
Stacked = Layered | Sequence[GivenPart | StackPart]

_BY_MODE = {code.mode: name for name, code in CELLS.items() if code.mode}


@dataclass(frozen=True, slots=True)
class Modules:
    """The arguments of `save`."""

    stack: Stacked | None
    embedding: nn.Embedding | None
    projection: nn.Linear | None
    head: nn.Module | None
    residual: bool | Sequence[bool]
    norms: Sequence[nn.LayerNorm | nn.RMSNorm | None]
    custom: CustomSpec | None
    features: int | None

    def unwrapped(self) -> Modules:
        """The same modules without wrappers such as torch.compile's.

        Raises:
            PackageError: a wrapped module cannot be reached.
        """
        names = ("stack", "embedding", "projection", "head")
        return replace(self, **{name: bare(getattr(self, name)) for name in names})

    @property
    def parts(self) -> tuple[GivenPart, ...]:
        """The stack, if it is a list of parts."""
        return given_parts(self.stack)

    @property
    def custom_module(self) -> nn.Module | None:
        """The stack, if it is a custom module."""
        return self.stack if self.custom is not None and isinstance(self.stack, nn.Module) else None


def convert(modules: Modules, normalization: Normalizing | None) -> tuple[dict[str, Any], Tensors]:
    """The manifest's input, stack, custom and head, and the tensors of all.

    Raises:
        PackageError: a manifest cannot describe a module.
    """
    head, tensors = convert_head(modules.head)
    projection, front_tensors = convert_projection(modules.projection)
    tensors |= front_tensors
    layers: tuple[LayerSpec, ...] = ()
    width = modules.features or 0
    custom, parts = modules.custom_module, modules.parts
    if modules.stack is None:
        raise PackageError(
            "there is nothing to save; give model=, a whole module, or stack= and the other parts"
        )
    if custom is not None:
        tensors |= {CUSTOM_PREFIX + name: value for name, value in tensors_of(custom).items()}
    elif parts:
        width = _entered(parts, width, modules)
        tensors |= {f"parts.{g.part.name}.{n}": v for g in parts for n, v in g.tensors.items()}
    else:
        layers, stack_tensors = convert_stack(modules.stack, modules.residual, modules.norms)
        tensors |= stack_tensors
        width = _listed(modules.stack)[0].input_size if layers else 0
    if modules.projection is not None:
        width = modules.projection.in_features
    if modules.embedding is not None:
        tensors["embedding.weight"] = looked_up(_is(modules.embedding, nn.Embedding, "embedding"))
    for name, value in tensors.items():
        _check_tensor(name, value)
    source = _input(modules.embedding, width, projection, normalization)
    found = {"input": source, "stack": layers, "custom": modules.custom, "head": head}
    return found | {"parts": tuple(given.part for given in parts)}, tensors


def _entered(parts: Sequence[GivenPart], features: int, modules: Modules) -> int:
    """Width of the rows that the first part reads.

    Raises:
        PackageError: it is not known, or an argument is for layers alone.
    """
    if modules.custom is not None or modules.residual is not False or modules.norms:
        raise PackageError(
            "custom=, residual= and norms= are not for a stack of parts; add rows with AddPart, and give a "
            "norm as a part of its own"
        )
    width = parts[0].width or features
    if not width and modules.embedding is None and modules.projection is None:
        raise PackageError(
            f"the part {parts[0].part.name!r} does not say how wide its rows are; give features="
        )
    return width


def _input(
    embedding: nn.Embedding | None,
    width: int,
    projection: Projection | None,
    normalization: Normalizing | None,
) -> Input:
    if embedding is not None:
        if normalization is not None:
            raise PackageError("normalization is for features; an embedding has none")
        vocabulary, size = embedding.num_embeddings, embedding.embedding_dim
        return TokensInput(vocabulary=vocabulary, embedding=size, projection=projection)
    constants = None
    if normalization is not None:
        try:
            mean, std = (tuple(float(value) for value in part) for part in normalization)
        except (TypeError, ValueError) as error:
            raise PackageError(
                f"normalization must be (mean, std), each with one number per feature: {error}"
            ) from error
        constants = Normalization(mean=mean, std=std)
    return FeaturesInput(width=width, projection=projection, normalization=constants)


def convert_stack(
    modules: Stacked,
    residual: bool | Sequence[bool],
    norms: Sequence[nn.LayerNorm | nn.RMSNorm | None],
) -> tuple[tuple[LayerSpec, ...], Tensors]:
    """Layers of one module, or of several one after the other.

    `residual` and `norms` count layers, not modules.

    Raises:
        PackageError: a module is of an unsupported kind, or the lists have different lengths.
    """
    singles = [(module, ly) for module in _listed(modules) for ly in range(module.num_layers)]
    residuals = [residual] * len(singles) if isinstance(residual, bool) else list(residual)
    norms = list(norms) or [None] * len(singles)
    if not len(singles) == len(residuals) == len(norms):
        raise PackageError(
            f"{len(singles)} layers, {len(residuals)} residual flags, {len(norms)} norms: give one of "
            "each per layer"
        )
    specs: list[LayerSpec] = []
    tensors: Tensors = {}
    for number, (module, layer) in enumerate(singles):
        norm = norms[number]
        part, norm_tensors = _norm(number, norm)
        added = {
            "residual": residuals[number],
            "layer_norm": part == NormPart(),
            "after": () if part in (None, NormPart()) else (part,),
        }
        spec = LayerSpec.model_validate(_spec_of(module).model_dump() | added)
        specs.append(spec)
        tensors |= _layer_tensors(number, module, layer)
        tensors |= norm_tensors
    return tuple(specs), tensors


def _norm(number: int, norm: nn.LayerNorm | nn.RMSNorm | None) -> tuple[RowPart | None, Tensors]:
    """The norm of a layer, and its tensors."""
    if norm is None:
        return None, {}
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        raise PackageError(
            f"the norm is a {type(norm).__name__}; give an nn.LayerNorm or an nn.RMSNorm, your whole module "
            "with model=, or save the model with `custom`"
        )
    found = part_of(norm)
    assert found is not None
    part, tensors = found
    place = "norm" if part == NormPart() else "after.0"
    return part, {f"stack.{number}.{place}.{name}": value for name, value in tensors.items()}


def convert_projection(module: nn.Linear | None) -> tuple[Projection | None, Tensors]:
    """The input projection."""
    if module is None:
        return None, {}
    module = _is(module, nn.Linear, "projection")
    spec = Projection(width=module.out_features, bias=module.bias is not None)
    return spec, _with_bias("projection", module)


def convert_head(module: nn.Module | None) -> tuple[Head, Tensors]:
    """A layer, or a Sequential of linear layers, activations and norms; see `convert_rows`.

    Raises:
        PackageError: the head has another form.
    """
    if module is None:
        return NoHead(), {}
    named = convert_rows(module)
    if not named:
        raise PackageError(_head_problem(flattened(module)))
    head = head_of([part for part, _ in named])
    tensors: Tensors = {}
    for place, (_, values) in zip(head.places, named, strict=True):
        tensors |= {f"head.{place}.{name}": value for name, value in values.items()}
    return head, tensors


def convert_rows(module: nn.Module) -> list[Named] | None:
    """The layers of a Sequential as parts of a chain of rows. None if one of them cannot be such a part.

    Dropout and Identity are left out, because they have no effect when a model is served. BatchNorm1d is a
    scale by its running statistics.

    Raises:
        PackageError: a norm has another form.
    """
    named: list[Named] = []
    for layer in flattened(module):
        if isinstance(layer, nn.Dropout | nn.Identity):
            continue
        if isinstance(layer, nn.BatchNorm1d):
            put_scale(named, batch_norm_scale(layer))
            continue
        found = part_of(layer)
        if found is None:
            return None
        named.append(found)
    return named


def flattened(module: nn.Module) -> list[nn.Module]:
    """The layers of a Sequential, also of one in another."""
    if not isinstance(module, nn.Sequential):
        return [module]
    return [inner for part in module for inner in flattened(part)]


def _head_problem(parts: Sequence[nn.Module]) -> str:
    return (
        f"the head {[type(part).__name__ for part in parts]} is not Linear, activation, Linear, … with norms "
        "between; use those, give your whole module with model=, or use a custom module"
    )


def _listed(modules: Stacked) -> list[RecurrentModule]:
    several = isinstance(modules, Sequence | nn.ModuleList)
    listed: list[Any] = list(cast("Sequence[Any]", modules)) if several else [modules]
    return [_recurrent(layered(module)) for module in listed]


def _recurrent(module: nn.Module) -> RecurrentModule:
    if not isinstance(module, MODULES):
        own = ", ".join(kind.__name__ for kind in OWN_MODULES)
        raise PackageError(
            f"the stack holds a {type(module).__name__}; give nn.RNN, nn.LSTM, nn.GRU or one of "
            f"carousel_models.cells ({own}), or save it with `custom`"
        )
    return module


def _spec_of(module: RecurrentModule) -> LayerSpec:
    """Each layer of a module, without residual and norm."""
    if isinstance(module, RecurrentLayers):
        return module.spec
    name: Any = entry(
        _BY_MODE, module.mode, "mode of a recurrent module", PackageError, "save it with `custom`"
    )
    return LayerSpec(
        cell=cast(Cell, name),
        hidden=module.hidden_size,
        bias=module.bias,
        bidirectional=module.bidirectional,
        proj_size=module.proj_size,
    )


def _layer_tensors(number: int, module: RecurrentModule, layer: int) -> Tensors:
    suffixes = {"forward": "", "backward": "_reverse"}
    if not module.bidirectional:
        del suffixes["backward"]
    return {
        f"stack.{number}.{direction}.{name}": value
        for direction, suffix in suffixes.items()
        for name, value in _stored(module, layer, suffix).items()
    }


def _stored(module: RecurrentModule, layer: int, suffix: str) -> Tensors:
    """The weights of one direction of a layer, named as in a package."""
    if isinstance(module, RecurrentLayers):
        return module.stored(layer, suffix)
    names = facts_of(_spec_of(module).cell).weights(_spec_of(module), module.input_size)
    return {name: getattr(module, f"{name}_l{layer}{suffix}") for name in names}


def _with_bias(name: str, module: nn.Linear) -> Tensors:
    bias: Tensor | None = module.bias
    return {f"{name}.weight": module.weight} | ({} if bias is None else {f"{name}.bias": bias})


def _is(module: Module, kind: type[Module], role: str) -> Module:
    """Raises PackageError if a module is of another kind than its role needs."""
    if not isinstance(module, kind):
        raise PackageError(
            f"the {role} is a {type(module).__name__}; give an nn.{kind.__name__}, or save the model with "
            "`custom`"
        )
    return module


def looked_up(embedding: nn.Embedding) -> Tensor:
    """The rows of a lookup. With max_norm, longer ones are shortened."""
    weight = embedding.weight
    if embedding.max_norm is None or weight.is_meta:
        return weight
    rows = torch.arange(len(weight), device=weight.device)
    return torch.embedding_renorm_(
        weight.detach().clone(), rows, embedding.max_norm, embedding.norm_type
    )


def _check_tensor(name: str, value: object) -> None:
    """Raises PackageError for weights that are not ordinary real numbers."""
    if not isinstance(value, Tensor):
        problem = (
            f"is a {type(value).__name__} and no tensor; give torch's plain modules, not quantised"
        )
    elif is_lazy(value):
        problem = "has no shape yet; run the lazy module once before it is saved"
    elif value.is_meta:
        problem = "is on the meta device and has no numbers; load the weights first"
    elif value.layout != torch.strided:
        problem = f"is {value.layout}; make it dense with to_dense()"
    elif not name.startswith(CUSTOM_PREFIX) and value.is_complex():
        problem = "is complex, and models are real; save the model with `custom` and give real rows"
    elif not name.startswith(CUSTOM_PREFIX) and not value.is_floating_point():
        problem = f"is {value.dtype}; give weights of floating point"
    else:
        return
    raise PackageError(f"{name} {problem}")
