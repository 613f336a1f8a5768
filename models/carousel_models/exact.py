"""Refuses modules with code that a package would lose: subclasses, hooks, parametrisations, extra tensors.

A package has weights and a description, but no code. So `save` accepts torch's own modules as torch made
them, unless a reference proves that additions make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from .cell_modules import CELL_MODULES
from .cells import MODULES, RecurrentLayers
from .errors import PackageError
from .from_torch import Modules
from .row_modules import ROW_MODULES

_KINDS: tuple[type[nn.Module], ...] = (
    *MODULES,
    *CELL_MODULES,
    *(nn.Embedding, nn.Sequential, nn.Dropout, nn.Identity, nn.Conv1d),
    *ROW_MODULES,
)
_TENSORS = re.compile(
    r"(weight|bias)(_(ih|hh|hr)(_l\d+(_reverse)?)?)?|running_(mean|var)|num_batches_tracked"
)

_REFERENCE = "or give reference=, your whole model, which proves that it makes no difference"


def check_exact(modules: Modules, initial: Iterable[object] = ()) -> None:
    """Refuses modules of which a package would leave out something.

    `initial` holds the tensors that are saved as initial states. A module may have them.

    Raises:
        PackageError: it names the module and what would be lost.
    """
    for kind in ("_global_forward_hooks", "_global_forward_pre_hooks"):
        for hook in getattr(torch_module, kind).values():
            raise PackageError(
                f"torch has a global forward hook, {_label(hook)}, which a server would not have; remove it, "
                f"{_REFERENCE}"
            )
    saved = {id(tensor) for tensor in initial}
    for name, module in _parts(modules):
        _check_kind(name, module)
        _check_hooks(name, module)
        _check_tensors(name, module, saved)


def _parts(modules: Modules) -> Iterator[tuple[str, nn.Module]]:
    """The modules that can be checked, by their role. Others are refused where they are converted."""
    named: list[tuple[str, object]] = [
        ("the embedding", modules.embedding),
        ("the projection", modules.projection),
        ("the head", modules.head),
        *((f"norm {number}", norm) for number, norm in enumerate(modules.norms)),
    ]
    if isinstance(modules.head, nn.Sequential):
        named += [(f"head[{name}]", part) for name, part in modules.head.named_modules() if name]
    if modules.custom_module is None and not modules.parts:
        stack = modules.stack
        several = isinstance(stack, Sequence | nn.ModuleList)
        listed = list(stack) if isinstance(stack, Sequence | nn.ModuleList) else [stack]
        named += [
            (f"stack[{number}]" if several else "the stack", part)
            for number, part in enumerate(listed)
        ]
    for given in modules.parts:
        for module in given.modules:
            inner = [one for _, one in module.named_modules()]
            named += [(f"{type(one).__name__} of part {given.part.name!r}", one) for one in inner]
    for name, part in named:
        if isinstance(part, _KINDS):
            yield name, part


def _check_kind(name: str, module: nn.Module) -> None:
    kind = type(module)
    if parametrize.is_parametrized(module):
        weights = ", ".join(module.parametrizations)  # type: ignore[arg-type]
        raise PackageError(
            f"{name} has a parametrization of {weights}, which may be newer or older than what it computes "
            "with; remove it with torch.nn.utils.parametrize.remove_parametrizations, on a copy if you train "
            f"on, {_REFERENCE}"
        )
    if kind not in _KINDS:
        base = next(known for known in _KINDS if isinstance(module, known))
        raise PackageError(
            f"{name} is a {kind.__name__}, a subclass of {base.__name__}, whose own code a package does not "
            f"hold; give a plain {base.__name__} with its weights, save it with `custom`, {_REFERENCE}"
        )
    if "forward" in vars(module):
        raise PackageError(
            f"{name} has a forward of its own, set on the instance, which a package does not hold; delete "
            f"that, {_REFERENCE}"
        )


def _check_hooks(name: str, module: nn.Module) -> None:
    for hook in _hooks(module):
        fold = {
            "WeightNorm": "torch.nn.utils.remove_weight_norm",
            "SpectralNorm": "torch.nn.utils.remove_spectral_norm",
        }.get(type(hook).__name__)
        fix = f"fold it into the weights with {fold}" if fold else "remove it"
        raise PackageError(
            f"{name} has the forward hook {_label(hook)}, which a package does not hold; {fix}, on a copy if "
            f"you train on, {_REFERENCE}"
        )


def _check_tensors(name: str, module: nn.Module, saved: Container[int]) -> None:
    tensors = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    own = {name for name, tensor in tensors if id(tensor) not in saved}
    if not isinstance(module, nn.Sequential):
        own |= {name for name, _ in module.named_children()}
    if isinstance(module, RecurrentLayers):
        own -= module.parameter_names
    extra = sorted(key for key in own if not _TENSORS.fullmatch(key))
    if extra:
        raise PackageError(
            f"{name} holds {', '.join(extra)}, which a {type(module).__name__} of torch has not and a "
            "package does not hold; give a learnable initial state as initial=, save the model with "
            f"`custom`, {_REFERENCE}"
        )


def _hooks(module: nn.Module) -> list[object]:
    own = vars(module)
    return [*own["_forward_pre_hooks"].values(), *own["_forward_hooks"].values()]


def _label(hook: object) -> str:
    return getattr(hook, "__qualname__", type(hook).__name__)
