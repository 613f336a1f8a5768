"""Finds out how a module is called: tokens or features, their width, and its other arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from carousel_models.agreement import as_served, device_of
from carousel_models.errors import PackageError

from .calls import Sizes
from .values import Axes

BATCH_FIRST: Axes = (("B",), ("T",))
TIME_FIRST: Axes = (("T",), ("B",))
_BEGINNINGS = ("init_hidden", "init_state", "initial_state", "get_initial_state", "begin_state")


@dataclass(frozen=True, slots=True)
class Calling:
    """How rows become a call.

    Attributes:
        module: the user's.
        width: of features. 0 for tokens.
        vocabulary: least number of tokens that the module takes; the input of a run has these.
        time_first: True if the first dimension is the steps.
        others: the example's arguments behind x, or None if they are made here.
    """

    module: nn.Module
    width: int
    vocabulary: int = 2
    time_first: bool = False
    others: tuple[Any, ...] | None = None

    @property
    def axes(self) -> Axes:
        """The axes of x."""
        axes = TIME_FIRST if self.time_first else BATCH_FIRST
        return (*axes, ("F",)) if self.width else axes

    def given(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for x float32[B, T, width] or int64[B, T].

        Raises:
            PackageError: an argument without a default cannot be made.
        """
        sizes = Sizes(x.shape[0], x.shape[1])
        x = x.transpose(0, 1) if self.time_first else x
        x = x.to(device_of(self.module), _dtype(self.module) if self.width else torch.int64)
        if self.others is not None:
            return (x.clone(), *self.others), {}
        return (x.clone(), *_made(self.module, sizes)), {}

    def sample(self, sizes: Sizes, seed: int = 0) -> Tensor:
        """A seeded random input."""
        generator = torch.Generator().manual_seed(seed)
        shape = (sizes.batch, sizes.steps)
        if self.width:
            return torch.randn(*shape, self.width, generator=generator)
        return torch.randint(self.vocabulary, shape, generator=generator)

    def run(self, x: Tensor) -> Any:
        """The module's own result, in eval mode without gradients."""
        args, kwargs = self.given(x)
        with as_served(self.module):
            return self.module(*args, **kwargs)


def callings(module: nn.Module, features: int | None, example: Any) -> Iterator[Calling]:
    """The ways to call a module, the likeliest first.

    Args:
        module: the user's, in plain form.
        features: the input's width, if it is known.
        example: x, or a tuple of x and the arguments behind it. None if there is none.
    """
    others: tuple[Any, ...] | None = None
    embeddings = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    vocabulary = min((part.num_embeddings for part in embeddings), default=2)
    widths = list(_widths(module)) if features is None else [features]
    widths = [0, *widths] if embeddings and features is None else [*widths, 0]
    if example is not None:
        x, *behind = example if isinstance(example, tuple | list) else (example,)
        others = tuple(behind) if behind else None
        if not isinstance(x, Tensor):
            raise PackageError(f"the example's x is a {type(x).__name__}; give a tensor")
        widths = [x.shape[-1] if x.is_floating_point() else 0]
    for width in dict.fromkeys(widths):
        calling = Calling(module, width, vocabulary, others=others)
        yield calling
        yield replace(calling, time_first=True)


def _widths(module: nn.Module) -> Iterator[int]:
    """Widths that the input may have: those that layers take, in the order of their making."""
    for part in module.modules():
        for name in ("input_size", "in_features", "num_features", "in_channels"):
            if isinstance(getattr(part, name, None), int):
                yield getattr(part, name)
        shape: Sequence[int] | None = getattr(part, "normalized_shape", None)
        if shape:
            yield shape[-1]
    for name, buffer in module.named_buffers():
        if "num_batches" not in name and buffer.dim():
            yield buffer.shape[-1]


def _made(module: nn.Module, sizes: Sizes) -> tuple[Any, ...]:
    """Arguments behind x that have no default."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    made = []
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break
        if parameter.default is not parameter.empty:
            made.append(_length(parameter, sizes, parameter.default))
            continue
        made.append(_argument(module, parameter, sizes))
    return tuple(made)


def _length(parameter: inspect.Parameter, sizes: Sizes, otherwise: Any) -> Any:
    """Whole lengths for an argument that is called so."""
    if re.search(r"len", parameter.name):
        return torch.full((sizes.batch,), sizes.steps, dtype=torch.int64)
    return otherwise


def _argument(module: nn.Module, parameter: inspect.Parameter, sizes: Sizes) -> Any:
    name = parameter.name
    if re.search(r"len", name):
        return _length(parameter, sizes, None)
    if re.search(r"^h_?0$|^hx?$|^hc$|hid|state|mask|^h_", name):
        begin = next((getattr(module, b) for b in _BEGINNINGS if hasattr(module, b)), None)
        if begin is None or "mask" in name:
            return None
        with torch.no_grad():
            return begin(sizes.batch)
    raise PackageError(
        f"forward needs the argument {name!r}, which is neither a state nor lengths; give example=(x, "
        f"{name}), or a default"
    )


def _dtype(module: nn.Module) -> torch.dtype:
    """The type of the module's weights."""
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floats, torch.float32)
