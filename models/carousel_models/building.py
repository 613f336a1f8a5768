"""Makes the recurrent stack of a manifest from a package's tensors, module and programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from .errors import PackageError
from .kernels import Kernel, Reference
from .parts_stack import PartsStack
from .program_spec import ProgramPart
from .programs import Program
from .programs.stepping import ProgramStack
from .spec import Architecture
from .stack import CustomStack, RecurrentStack, Stack, build_layer
from .stack_parts import Placed, StackPart


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
    """What a stack is made from."""

    tensors: Mapping[str, Tensor]
    foreign: Foreign
    kernel: Kernel
    device: torch.device


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
    layers = (
        build_layer(i, spec, materials.tensors, steps) for i, spec in enumerate(architecture.stack)
    )
    return Stack(tuple(layers), materials.device, steps)


def _program(placed: Placed, materials: Materials) -> RecurrentStack:
    part = cast("ProgramPart", placed.part)
    try:
        return ProgramStack(part, materials.foreign.programs[part.name], materials.device)
    except Exception as error:  # the manifest may name ports that the file has not
        raise PackageError(
            f"{part.foreign} does not fit the manifest: {error!r}; import the model again"
        ) from error


BUILDERS: dict[type[StackPart], Callable[[Placed, Materials], RecurrentStack]] = {
    ProgramPart: _program,
}
"""What makes the stack of each kind of part."""
