"""Makes the stages of a manifest from a package's tensors, module and programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from .chain_parts import ConvPart, LayersPart, RowConvPart, RowsPart
from .convolving import ConvStack, Product, row_convolution, window_product
from .decoder_spec import DECODER
from .errors import PackageError
from .joining_parts import AddPart, ConcatPart, MultiplyPart
from .kernels import Kernel, Reference
from .layer_spec import LayerSpec
from .parts_stack import PartsStack
from .program_spec import ProgramPart
from .programs import Program
from .programs.stepping import ProgramStack
from .row_functions import build_chain, positional
from .spec import Architecture
from .spectra import WINDOWS, irfft, magnitude, phase, polar, rfft
from .spectral_parts import IrfftPart, MagnitudePart, PhasePart, PolarPart, RfftPart, WindowPart
from .stack import CustomStack, RecurrentStack, Stack, below, build_layer
from .stack_parts import Placed, StackPart
from .stages import Rows, Stage, Stages
from .stateless import Stateless, added, multiplied


@dataclass(frozen=True, slots=True)
class Foreign:
    """The code of a model that is not Carousel's, loaded and ready to run.

    Attributes:
        custom: the custom module that the manifest names, in eval mode and on the model's device.
        programs: by the name of their parts.
    """

    custom: nn.Module | None = None
    programs: Mapping[str, Program] = field(default_factory=dict)

    @property
    def shared(self) -> dict[str, Tensor]:
        """The tensors that all sessions share."""
        found = dict(self.custom.state_dict()) if self.custom is not None else {}
        for name, program in self.programs.items():
            found |= {f"{name}.{key}": tensor for key, tensor in program.shared.items()}
        return found


NOTHING_FOREIGN = Foreign()


@dataclass(frozen=True, slots=True)
class Materials:
    """What stages are made from."""

    tensors: Mapping[str, Tensor]
    foreign: Foreign
    kernel: Kernel
    device: torch.device


Builder = Callable[[Placed, Materials], RecurrentStack]


def build_rows(architecture: Architecture, materials: Materials) -> Rows:
    """All between a model's input and its rows."""
    encoder, decoder = _stage(architecture, materials), architecture.decoding
    if decoder is None:
        return encoder
    its = replace(materials, tensors=below(materials.tensors, f"{DECODER}."))
    return Stages(encoder, _stage(decoder, its), architecture.vocabulary, architecture.output_width)


def _stage(architecture: Architecture, materials: Materials) -> Stage:
    stack = build_stack(architecture, materials)
    return Stage(architecture, materials.tensors, stack, materials.kernel, materials.device)


def build_stack(architecture: Architecture, materials: Materials) -> RecurrentStack:
    """The part between input and head."""
    kernel, foreign = materials.kernel, materials.foreign
    if architecture.custom is not None:
        assert foreign.custom is not None
        return CustomStack(architecture.custom, foreign.custom)
    if architecture.parts:
        placed = architecture.placed
        return PartsStack(placed, [BUILDERS[type(one.part)](one, materials) for one in placed])
    # A stack without steps needs no packed weights.
    steps = kernel if architecture.causal else Reference()
    return _stack("stack", architecture.stack, materials, steps)


def _stack(
    prefix: str, layers: Sequence[LayerSpec], materials: Materials, kernel: Kernel
) -> RecurrentStack:
    built = (
        build_layer(f"{prefix}.{number}", spec, materials.tensors, kernel)
        for number, spec in enumerate(layers)
    )
    return Stack(tuple(built), materials.device, kernel)


def _program(placed: Placed, materials: Materials) -> RecurrentStack:
    part = cast("ProgramPart", placed.part)
    try:
        return ProgramStack(part, materials.foreign.programs[part.name], materials.device)
    except Exception as error:  # the manifest may name ports that the file has not
        raise PackageError(
            f"{part.foreign} does not fit the manifest: {error!r}; import the model again"
        ) from error


def _layers(placed: Placed, materials: Materials) -> RecurrentStack:
    part = cast("LayersPart", placed.part)
    return _stack(_prefix(placed), part.layers, materials, materials.kernel)


def _rows(placed: Placed, materials: Materials) -> RecurrentStack:
    part, kernel = cast("RowsPart", placed.part), materials.kernel
    run = build_chain(kernel, part.parts, materials.tensors, _prefix(placed))
    assert run is not None
    return Stateless(run, batch_invariant=kernel.batch_invariant and not positional(part.parts))


def _conv(placed: Placed, materials: Materials) -> RecurrentStack:
    part = cast("ConvPart", placed.part)
    product = _product(part, placed, materials)
    invariant = materials.kernel.batch_invariant
    return ConvStack(part, placed.entering, product, batch_invariant=invariant)


def _row_conv(placed: Placed, materials: Materials) -> RecurrentStack:
    part = cast("RowConvPart", placed.part)
    run = row_convolution(part, _product(part, placed, materials))
    return Stateless(run, batch_invariant=materials.kernel.batch_invariant)


def _product(part: ConvPart | RowConvPart, placed: Placed, materials: Materials) -> Product:
    weight, bias = (materials.tensors.get(f"{_prefix(placed)}.{n}") for n in ("weight", "bias"))
    assert weight is not None
    return window_product(materials.kernel, part.groups, weight, bias)


def _window(placed: Placed, materials: Materials) -> RecurrentStack:
    part = cast("WindowPart", placed.part)
    window = WINDOWS[part.window](placed.entering).to(materials.device)
    return Stateless(lambda frames: frames * window, batch_invariant=True)


def _irfft(placed: Placed, materials: Materials) -> RecurrentStack:
    run = partial(irfft, samples=placed.leaving)
    return Stateless(run, batch_invariant=materials.device.type == "cpu")


def _plain(run: Callable[[Tensor], Tensor], *, invariant: bool = True) -> Builder:
    """A function without weights. On other devices than the CPU, nothing is known of its bits."""

    def build(placed: Placed, materials: Materials) -> RecurrentStack:  # noqa: ARG001 - as all have it
        return Stateless(run, batch_invariant=invariant and materials.device.type == "cpu")

    return build


def _joining(run: Callable[[Sequence[Tensor]], Tensor]) -> Builder:
    """A function of the rows of each source. Its operations on single numbers are exact to the bit."""

    def build(placed: Placed, materials: Materials) -> RecurrentStack:  # noqa: ARG001 - as all have it
        return Stateless(
            lambda x: run(torch.split(x, list(placed.widths), dim=-1)), batch_invariant=True
        )

    return build


def _prefix(placed: Placed) -> str:
    return f"parts.{placed.part.name}"


BUILDERS: dict[type[StackPart], Builder] = {
    ProgramPart: _program,
    LayersPart: _layers,
    RowsPart: _rows,
    ConvPart: _conv,
    RowConvPart: _row_conv,
    WindowPart: _window,
    RfftPart: _plain(rfft),
    IrfftPart: _irfft,
    MagnitudePart: _plain(magnitude),
    PhasePart: _plain(phase, invariant=False),
    PolarPart: _plain(polar, invariant=False),
    ConcatPart: _plain(lambda rows: rows),
    AddPart: _joining(added),
    MultiplyPart: _joining(multiplied),
}
"""What makes the stack of each kind of part."""
