"""A program as a recurrent stack: it moves the batch axis, keeps the context, and checks what comes back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from carousel_models.cells import HALF, State
from carousel_models.kernels.reference import gather
from carousel_models.packing import loop
from carousel_models.program_spec import ProgramPart, ProgramPort, ProgramState
from carousel_models.stack import StateSpec

from .interface import Program


class ProgramStack:
    """A program's steps. Inside Carousel a state is [B, *shape], whatever the program's order is.

    Args:
        part: what the manifest says.
        program: the loaded file.
        device: where rows and states are.
    """

    def __init__(self, part: ProgramPart, program: Program, device: torch.device) -> None:
        self._part = part
        self._program = program
        self._device = device
        self._specs = tuple(map(StateSpec.of, part.states()))
        self._dtype = getattr(torch, part.input.dtype)
        constants = {
            c.name: torch.full(
                c.shape, c.value, dtype=getattr(torch, c.dtype), device=program.device
            )
            for c in part.constants
        }
        self._call = program.bind(
            (part.input.name, *(state.enters for state in part.carried)),
            (part.output.name, *(state.leaves for state in part.carried)),
            constants,
        )

    @property
    def state_specs(self) -> tuple[StateSpec, ...]:
        """The program's states, then the context."""
        return self._specs

    @property
    def unseen_states(self) -> tuple[int, ...]:
        """All states that must be finite, because a program's outputs need not depend on them."""
        return tuple(place for place, spec in enumerate(self._specs) if spec.finite)

    @property
    def batch_invariant(self) -> bool:
        """True if each session is a call of its own. Nothing is known of a runtime's sums in a batch."""
        return self._part.batch == "one"

    @property
    def half(self) -> bool:
        """True if some of its tensors have 16 bits."""
        part = self._part
        ports: tuple[ProgramPort | ProgramState, ...] = (part.input, part.output, *part.carried)
        dtypes = [getattr(torch, port.dtype) for port in ports]
        return any(d in HALF for d in (*dtypes, *(t.dtype for t in self._program.shared.values())))

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of each session, in one call of the program if it takes a batch."""
        context: State = ()
        if self._part.context:
            (before,) = gather(state[-1:], slots)
            x = torch.cat((before, x), dim=1)
            context = (x[:, -self._part.context :].clone(),)
            state = state[:-1]
        step = self._alone if self._part.batch == "one" else self._together
        y, new = step(x, state, slots)
        return y, (*new, *context)

    def sequence(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        """The steps one after the other."""
        return loop(self.step, rows, sizes, state)

    def _together(self, x: Tensor, state: State, slots: Tensor | None) -> tuple[Tensor, State]:
        """One call. The program gets copies of the states, in its own order of axes."""
        part, batch = self._part, len(x)
        given = [self._enter(x.reshape(batch, *part.input.shape).movedim(0, part.input.axis))]
        for tensor, of in zip(state, part.carried, strict=True):
            moved = tensor.movedim(0, of.axis)
            own = (
                moved.clone(memory_format=torch.contiguous_format)
                if slots is None
                else moved.index_select(of.axis, slots)
            )
            given.append(own.to(self._program.device))
        y, *new = self._call(given)
        self._check(y, new, batch)
        y = y.movedim(part.output.axis, 0).reshape(batch, -1)
        leaving = zip(new, part.carried, strict=True)
        return self._row(y), tuple(self._leave(t.movedim(of.axis, 0)) for t, of in leaving)

    def _alone(self, x: Tensor, state: State, slots: Tensor | None) -> tuple[Tensor, State]:
        """A call for each session."""
        part, program = self._part, self._program
        own = [tensor.to(program.device) for tensor in gather(state, slots)]
        rows = self._enter(x.reshape(len(x), *part.input.shape))
        outputs, states = [], []
        for number in range(len(x)):
            y, *new = self._call([rows[number], *(tensor[number].clone() for tensor in own)])
            self._check(y, new, None)
            outputs.append(y.reshape(1, -1))
            states.append([tensor.clone() for tensor in new])
        y = self._row(torch.cat(outputs))
        return y, tuple(
            torch.stack(tensors).to(self._device) for tensors in zip(*states, strict=True)
        )

    def _enter(self, x: Tensor) -> Tensor:
        """A row as the program takes it. It is a copy if the program might write into it."""
        moved = x.to(self._program.device, self._dtype).contiguous()
        return moved if self._program.fresh else moved.clone()

    def _leave(self, tensor: Tensor) -> Tensor:
        """A result that no later call writes into."""
        moved = tensor.to(self._device)
        if self._program.fresh:
            return moved.contiguous()
        return moved.clone(memory_format=torch.contiguous_format)

    def _row(self, y: Tensor) -> Tensor:
        return self._leave(y.to(torch.float32))

    def _check(self, y: Tensor, new: Sequence[Tensor], batch: int | None) -> None:
        """A program must not write rows of another shape or type into the slab."""
        part = self._part
        ports: tuple[ProgramPort | ProgramState, ...] = (part.output, *part.carried)
        for found, port in zip((y, *new), ports, strict=True):
            shape = list(port.shape)
            if batch is not None:
                shape.insert(port.axis, batch)
            if list(found.shape) != shape or found.dtype != getattr(torch, port.dtype):
                raise ValueError(
                    f"{part.foreign} gave {port.name!r} as {found.dtype}{list(found.shape)}, but the "
                    f"manifest declares {port.dtype}{shape}"
                )
