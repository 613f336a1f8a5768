"""The recurrent stack: layers with residuals and norms between them, one step or whole sequences."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows
from torch.nn.utils.rnn import PackedSequence

from .cells import HALF, State, code_of, run_whole
from .kernels import Kernel, Link, Reference
from .kernels.reference import gather
from .layer_weights import directions
from .packing import loop, runs
from .row_functions import Chain, build_chain, positional
from .spec import CustomSpec, LayerSpec, StateDeclaration, states_of

log = logging.getLogger(__name__)


class StateSpec(NamedTuple):
    """One state tensor: its name, its shape for one session, its type.

    `finite`: True if NaN and infinities are errors. False for integers, which do not have them.
    `number`: what all elements begin with, where no tensor is stored for that.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    finite: bool = True
    number: bool | int | float = 0

    @classmethod
    def of(cls, state: StateDeclaration) -> StateSpec:
        """As a manifest declares it."""
        dtype = getattr(torch, state.dtype)
        finite = state.finite and (dtype.is_floating_point or dtype.is_complex)
        return cls(state.name, state.shape, dtype, finite, state.initial)


class RecurrentStack(Protocol):
    """The part between input and head: the built-in stack or a custom module."""

    @property
    def state_specs(self) -> tuple[StateSpec, ...]:
        """The state of one session. Empty if the stack is not causal."""

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """Places of the states that can become infinite in a step with finite outputs."""

    @property
    def batch_invariant(self) -> bool:
        """True if a row's bits are the same in a batch of any size."""

    @property
    def half(self) -> bool:
        """True if it computes with 16 bits, whatever the manifest's type is."""

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One step: x float32[B, in], state [B, *shape] each → y float32[B, out] and the new state.

        With `slots` int64[B], row i's state is row slots[i] of tensors [slots, *shape].
        """

    def sequence(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        """Many steps at once.

        Takes packed rows float32[rows, in], `sizes[t]` of them at time t (see `packing`), and the state
        of N ≥ sizes[0] sequences → float32[rows, out], and the state after each one's last step.
        """


class Around(NamedTuple):
    """The parts around a layer's cell, in the order of their computation; see `LayerSpec`."""

    before: Chain | None = None
    between: Chain | None = None
    norm: tuple[Tensor, Tensor] | None = None
    after: Chain | None = None


class Layer:
    """One recurrent layer, in one direction or both. `step` is of layers that run forward."""

    def __init__(
        self, spec: LayerSpec, weights: tuple[Any, ...], around: Around, kernel: Kernel
    ) -> None:
        """`weights`: of each direction, as the cell's `CellCode.prepare` makes them."""
        self.spec = spec
        self.weights = weights
        self._around = around
        self._code = code_of(spec.cell)
        own = kernel.layer(spec, weights[0])
        if own is None:
            cell = spec.cell + " layers" + " with a projection" * bool(spec.proj_size)
            log.info("the reference kernel steps %s, as %s has no code for them", cell, kernel.name)
        self._step = own or Reference().layer(spec, weights[0])
        self.batch_invariant = own is not None and kernel.batch_invariant and spec.causal
        # Whole sequences: by the kernel with the bits of steps if it can, else by torch.
        self._unrolled = kernel.unrolled(self._step) if self.batch_invariant else None
        fused = None if self.batch_invariant else self._code.fused
        self._fused = None if fused is None else fused(spec, weights)

    @property
    def link(self) -> Link | None:
        """Its step forward in time, as a part of a chain. None if a link cannot have its parts."""
        before, between, norm, after = self._around
        if before or between or after:
            return None
        return Link(self._step, self.spec.residual, norm)

    def step(self, x: Tensor, state: State, slots: Tensor | None) -> tuple[Tensor, State]:
        """One step forward in time."""
        y, state = self._step(self._begin(x), state, slots)
        return self._finish(x, y), state

    def sequence(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        """All steps. `state` is the forward direction's. A backward one starts from zero."""
        x = self._begin(rows)
        if self._unrolled is not None:
            y, state = self._unrolled(x, sizes, state)
        elif self.batch_invariant:
            y, state = loop(self._step, x, sizes, state)
        elif self._fused is not None:
            y, state = self._run_fused(x, sizes, state)
        else:
            y, state = self.sequence_by_steps(x, sizes, state)
        return self._finish(rows, y), state

    def sequence_by_steps(
        self, rows: Tensor, sizes: Sequence[int], state: State
    ) -> tuple[Tensor, State]:
        """The cell's rows, before residual and norm, by its equations."""
        outputs, finals = [], []
        for weights, direction in zip(self.weights, directions(self.spec), strict=True):
            reverse = direction == "backward"
            start = tuple(map(torch.zeros_like, state)) if reverse else state
            run = partial(run_whole, self._code, weights=weights)
            y, final = runs(run, self._code.share(rows, weights), sizes, start, reverse=reverse)
            outputs.append(y)
            finals.append(final)
        return torch.cat(outputs, dim=-1), finals[0]

    def _run_fused(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        assert self._fused is not None
        running = sizes[0]
        start = tuple(tensor[None, :running] for tensor in state)
        if self.spec.bidirectional:
            start = tuple(torch.cat((tensor, torch.zeros_like(tensor))) for tensor in start)
        packed = PackedSequence(rows, torch.tensor(sizes))
        out, final = self._fused(packed, start if len(start) > 1 else start[0])
        ends = final if isinstance(final, tuple) else (final,)
        waiting = (tensor[running:] for tensor in state)
        return out.data, tuple(torch.cat((e[0], w)) for e, w in zip(ends, waiting, strict=True))

    def _begin(self, x: Tensor) -> Tensor:
        return x if self._around.before is None else self._around.before(x)

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        _, between, norm, after = self._around
        if between is not None:
            y = between(y)
        if self.spec.residual:
            y = y + x
        if norm is not None:
            y = F.layer_norm(y, y.shape[-1:], *norm)
        return y if after is None else after(y)


class Stack:
    """The built-in stack."""

    half = False

    def __init__(self, layers: tuple[Layer, ...], device: torch.device, kernel: Kernel) -> None:
        self.layers = layers
        links = [layer.link for layer in layers]
        plain = [link for link in links if link is not None]
        self._chain = kernel.chain(plain) if len(plain) == len(links) else None
        self._device = device
        self._causal = all(layer.spec.causal for layer in layers)
        ends = list(accumulate((len(layer.spec.states) for layer in layers), initial=0))
        self._parts = [slice(*bounds) for bounds in pairwise(ends)]

    @property
    def state_specs(self) -> tuple[StateSpec, ...]:
        """The states of each layer, named "0.h", "0.c", "1.h" and so on."""
        return tuple(map(StateSpec.of, states_of([layer.spec for layer in self.layers], None)))

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """The states of `LayerSpec.unseen`."""
        named = [state.name in ly.spec.unseen for ly in self.layers for state in ly.spec.states]
        return tuple(place for place, unseen in enumerate(named) if unseen and self._causal)

    @property
    def batch_invariant(self) -> bool:
        """True if the kernel has code for every layer whose bits do not depend on the batch."""
        around = [
            chain
            for layer in self.layers
            for chain in (layer.spec.before, layer.spec.between, layer.spec.after)
        ]
        own = all(layer.batch_invariant for layer in self.layers)
        return own and not any(map(positional, around))

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of every layer."""
        if self._chain is not None:
            return self._chain(x, state, slots)
        new: list[Tensor] = []
        for layer, part in zip(self.layers, self._split(state), strict=True):
            x, part_new = layer.step(x, part, slots)
            new.extend(part_new)
        return x, tuple(new)

    def sequence(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        """All steps of every layer, layer by layer."""
        parts = self._split(state) if self._causal else self._zeros(sizes[0])
        new: list[Tensor] = []
        for layer, part in zip(self.layers, parts, strict=True):
            rows, part_new = layer.sequence(rows, sizes, part)
            new.extend(part_new)
        return rows, tuple(new) if self._causal else ()

    def _split(self, state: State) -> list[State]:
        return [state[part] for part in self._parts]

    def _zeros(self, batch: int) -> list[State]:
        return [
            tuple(
                torch.zeros(batch, *shape, dtype=getattr(torch, dtype), device=self._device)
                for _, shape, dtype in layer.spec.states
            )
            for layer in self.layers
        ]


class CustomStack:
    """A user's module instead of the stack."""

    batch_invariant = False

    def __init__(self, spec: CustomSpec, module: nn.Module) -> None:
        self._module = module
        self._width = spec.width
        self._specs = tuple(map(StateSpec.of, spec.states))

    @property
    def state_specs(self) -> tuple[StateSpec, ...]:
        """As declared in the manifest."""
        return self._specs

    @property
    def half(self) -> bool:
        """True if some of the module's tensors or states have 16 bits, for any type of the manifest."""
        weights = (tensor.dtype for tensor in self._module.state_dict().values())
        return any(dtype in HALF for dtype in (*weights, *(spec.dtype for spec in self._specs)))

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """All states that must be finite, because a module's outputs need not depend on them."""
        return tuple(place for place, spec in enumerate(self._specs) if spec.finite)

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One call of the module's `step`.

        The module gets copies, and contiguous copies of its results are returned: whatever it writes in
        place, or hands out again, reaches neither the caller's tensors nor earlier results.
        """
        own = tuple(map(torch.clone, state)) if slots is None else gather(state, slots)
        y, new = self._module.step(x.clone(), own)  # type: ignore[operator]
        new = tuple(new)
        self._check(len(x), y, new)
        y = y.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return y, tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in new)

    def sequence(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        """The module's steps one after the other."""
        return loop(self.step, rows, sizes, state)

    def _check(self, batch: int, y: Tensor, new: State) -> None:
        """Foreign code must not write rows of another shape or type into the slab."""
        given: tuple[object, ...] = (y, *new)
        for tensor in given:
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                kind = tensor.layout if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(
                    f"the custom module's step gave a {kind}; y and each state must be a dense tensor"
                )
        found = [(tuple(tensor.shape), tensor.dtype) for tensor in new]
        declared = [((batch, *spec.shape), spec.dtype) for spec in self._specs]
        if tuple(y.shape) != (batch, self._width) or found != declared:
            raise ValueError(
                f"the custom module's step gave y {list(y.shape)} and state {found}, but its manifest "
                f"declares y {[batch, self._width]} and state {declared}"
            )
        if y.is_complex():
            raise ValueError(
                f"the custom module's step gave y of {y.dtype}, whose imaginary part would be lost; "
                "give real rows"
            )


def build_layer(
    prefix: str, spec: LayerSpec, tensors: Mapping[str, Tensor], kernel: Kernel
) -> Layer:
    """A layer from the tensors of a package that begin with the prefix, stepped by a kernel."""
    weights = tuple(
        code_of(spec.cell).prepare(spec, below(tensors, f"{prefix}.{direction}."))
        for direction in directions(spec)
    )
    norm = (
        (tensors[f"{prefix}.norm.weight"], tensors[f"{prefix}.norm.bias"])
        if spec.layer_norm
        else None
    )
    part = partial(build_chain, kernel, tensors=tensors)
    around = Around(
        part(spec.before, prefix=f"{prefix}.before"),
        part(spec.between, prefix=f"{prefix}.between"),
        norm,
        part(spec.after, prefix=f"{prefix}.after"),
    )
    return Layer(spec, weights, around, kernel)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
