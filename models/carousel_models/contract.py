"""Checks a step of foreign code: a row gives the same alone, in any batch, and in a whole sequence.

Sessions share batches of any size, start at any time and have any place. A module can be right alone and
wrong in a batch: if it mixes rows, has a state of its own, draws random numbers or needs one batch size. The
neighbours here have large values, so that a leak is visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle

import torch
from torch import Tensor

from .cells import State
from .errors import PackageError
from .model import RecurrentModel
from .probe import on_device, sample_input, tolerance_of

BATCHES = (2, 3, 7, 1, 4, 33)
"""Sizes of the batches: even, odd, padded, and greater than the number of a probe's steps."""

_SEQUENCES, _STEPS = 5, 8
_LOUD = 16.0


def check_contract(model: RecurrentModel, shared: Callable[[], Mapping[str, Tensor]]) -> None:
    """Checks a custom module, or programs, in batches.

    Args:
        model: built on them.
        shared: gives the tensors of theirs that all sessions share.

    Raises:
        PackageError: a step breaks a rule. It has the rule, the step and the difference.
    """
    before = {name: tensor.clone() for name, tensor in shared().items()}
    # The caller's random numbers are not changed, so its program stays reproducible.
    with torch.inference_mode(), torch.random.fork_rng(devices=_cuda_devices(model)):
        _Proof(model).run()
    for name, tensor in shared().items():
        if not torch.equal(_bits(tensor), _bits(before[name])):
            raise PackageError(
                f"{_name(model)} changes its own tensor {name!r} while it steps, and all sessions share "
                "that tensor; keep what a session must remember in `state`"
            )


class _Proof:
    """A few sequences, first alone, then in batches."""

    def __init__(self, model: RecurrentModel) -> None:
        self._model = model
        self._tolerance = tolerance_of(model)
        generator = torch.Generator().manual_seed(1)
        x = sample_input(model, _SEQUENCES * _STEPS, generator)
        self._x = on_device(model, x).reshape(_SEQUENCES, _STEPS, *x.shape[1:])
        self._random = generator
        # [sequence][step]: output row [1, W] and state after.
        self._alone: list[list[tuple[Tensor, State]]] = []

    def run(self) -> None:
        """Raises PackageError for the first broken rule."""
        self._alone = [self._steps_alone(number) for number in range(_SEQUENCES)]
        self._check_repeatable()
        self._check_company()
        self._check_whole()

    def _steps_alone(self, number: int) -> list[tuple[Tensor, State]]:
        state, steps = self._model.initial_state(1), []
        for step in range(_STEPS):
            raw, state = self._step(self._x[number, step][None], state)
            if not bool(raw.isfinite().all()):
                raise PackageError(
                    f"{_name(self._model)} gives NaN or infinity at step {step} of a random input; correct "
                    "its weights or its step"
                )
            steps.append((raw, state))
        return steps

    def _check_repeatable(self) -> None:
        for number in reversed(range(_SEQUENCES)):
            for step, found in enumerate(self._steps_alone(number)):
                off = self._off(found, self._alone[number][step])
                if not off <= self._tolerance:
                    raise PackageError(
                        f"{_name(self._model)} gives other numbers when the same steps run again "
                        f"(step {step}, difference {off:.3g}): it draws random numbers, as dropout does, or "
                        "keeps state between calls; keep all state in `state`, and switch dropout off with "
                        "self.training"
                    )

    def _check_company(self) -> None:
        """Sequences start one after the other and share batches with other rows."""
        states = [self._model.initial_state(1)] * _SEQUENCES
        done = [0] * _SEQUENCES
        for tick, size in enumerate(cycle(BATCHES)):
            ready = [n for n in range(min(tick + 1, _SEQUENCES)) if done[n] < _STEPS]
            if not ready and tick >= _SEQUENCES:
                return
            chosen = [ready[i] for i in self._shuffled(len(ready))][:size]
            places = self._shuffled(size)[: len(chosen)]
            x, state = self._strangers(size)
            for number, place in zip(chosen, places, strict=True):
                x[place] = self._x[number, done[number]]
                for tensor, own in zip(state, states[number], strict=True):
                    tensor[place] = own[0]
            raw, after = self._step(x, state)
            for number, place in zip(chosen, places, strict=True):
                found = raw[place][None], tuple(tensor[place][None] for tensor in after)
                self._compare(found, number, done[number], f"in a batch of {size}")
                states[number] = found[1]
                done[number] += 1

    def _check_whole(self) -> None:
        lengths = torch.tensor([_STEPS, 3, _STEPS - 1, 1, _STEPS])
        try:
            raw, state = self._model.sequence(self._x, lengths)
        except Exception as error:  # foreign code may raise anything
            raise _failed(self._model, len(lengths), error) from error
        for number, length in enumerate(lengths.tolist()):
            after = tuple(tensor[number][None] for tensor in state)
            self._compare((raw[number, length - 1][None], after), number, length - 1, "in a whole")

    def _compare(self, found: tuple[Tensor, State], number: int, step: int, where: str) -> None:
        off = self._off(found, self._alone[number][step])
        if not off <= self._tolerance:
            raise PackageError(
                f"{_name(self._model)} gives a row other numbers {where} than alone (step {step}, difference "
                f"{off:.3g}): the rows of a batch are different sessions, so none may depend on another; "
                "compute over the last dimensions only, never over the batch (dimension 0)"
            )

    def _step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        try:
            return self._model.step(x, state)
        except Exception as error:  # foreign code may raise anything
            raise _failed(self._model, len(x), error) from error

    def _strangers(self, size: int) -> tuple[Tensor, State]:
        """Other rows: zeros as in padding, and large values with possible states."""
        x = on_device(self._model, sample_input(self._model, size, self._random))
        if x.is_floating_point():
            x *= _LOUD
        x[::3] = 0
        pool = [after for steps in self._alone for _, after in steps]
        picked = [pool[i] for i in torch.randint(len(pool), (size,), generator=self._random)]
        state = tuple(torch.cat(tensors) for tensors in zip(*picked, strict=True))
        return x, state

    def _shuffled(self, size: int) -> list[int]:
        order: list[int] = torch.randperm(size, generator=self._random).tolist()
        return order

    def _off(self, found: tuple[Tensor, State], expected: tuple[Tensor, State]) -> float:
        """Greatest difference of outputs and states. Infinity where integers differ, NaN for NaN."""
        pairs = zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True)
        return max(_differences(pairs), default=0.0)


def _differences(pairs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[float]:
    for found, expected in pairs:
        unequal = found != expected  # NaN too
        if not bool(unequal.any()):
            yield 0.0
        elif not (expected.is_floating_point() or expected.is_complex()):
            yield float("inf")
        else:
            here, alone = _exact(found[unequal]), _exact(expected[unequal])
            yield float(((here - alone).abs() / (1 + alone.abs())).nan_to_num(float("inf")).max())


def _exact(numbers: Tensor) -> Tensor:
    return numbers.to(torch.complex128 if numbers.is_complex() else torch.float64)


def _failed(model: RecurrentModel, batch: int, error: Exception) -> PackageError:
    fix = (
        "correct its step"
        if batch == 1
        else "its step works for one row only: it must take any number of rows"
    )
    return PackageError(
        f"{_name(model)} failed on its probe: {error!r} in a batch of {batch}; {fix}"
    )


def _name(model: RecurrentModel) -> str:
    return model.manifest.foreign


def _cuda_devices(model: RecurrentModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []


def _bits(tensor: Tensor) -> Tensor:
    """NaN equals itself."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)
