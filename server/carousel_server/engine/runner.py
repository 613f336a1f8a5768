"""Runs batches on the device: step the slab's rows → scatter, for as many steps as they have inputs."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from carousel_models import RecurrentModel
from carousel_models.kernels import Reference
from carousel_server.core.types import Int64s
from carousel_server.rows.slab import Slab

from .finite import Drawing, FiniteRules, FiniteSteps
from .scheduler import Batch

# Matrix products take other paths, with other roundings, for one to three rows than for more. Padding
# to four makes a row's bits the same at nearly all sizes at little cost; `strict` makes it certain.
_SMALLEST = 4


class Buckets:
    """The few sizes that batches run at: powers of two, with the midpoints between from 16 on, so
    padding costs at most half a batch and mostly less. In strict mode there is one, so that no row's
    bits depend on who else is there. If they never do (`invariant`), a batch is padded to nothing.
    """

    def __init__(self, max_batch: int, *, strict: bool, invariant: bool = False) -> None:
        if invariant:
            self.sizes = list(range(1, max_batch + 1))
            return
        if strict:
            self.sizes = [max_batch]
            return
        sizes, size = {max_batch}, _SMALLEST
        while size < max_batch:
            sizes |= {size, min(size + size // 2, max_batch)} if size >= 16 else {size}
            size *= 2
        self.sizes = sorted(sizes)

    def of(self, rows: int) -> int:
        """The smallest size that holds `rows`."""
        return self.sizes[bisect.bisect_left(self.sizes, rows)]


@dataclass(frozen=True, slots=True)
class BatchOutputs:
    """What a tick computed.

    Attributes:
        rows: uint8[n, steps, output_row_bytes]; step j of row i is there for j < counts[i] if the row
            was asked for, see `Runner.run`.
        last: float32[n, head width] on the device, each row's raw output (before transform and
            selection) of its last step.
        bucket: the padded size of the first step.
        finite: which steps count; None if all do. A row of which one does not is as before the batch, and
            has no outputs.
    """

    rows: np.ndarray
    last: Tensor
    bucket: int
    finite: FiniteSteps | None

    def of(self, places: Int64s, steps: int) -> BatchOutputs:
        """Those of some rows, of which none has more than `steps`."""
        last = self.last[torch.from_numpy(places).to(self.last.device)]
        rows = self.rows[places, :steps]
        return BatchOutputs(rows, last, self.bucket, None)


class DeviceLostError(Exception):
    """The device computes nothing any more, not even zeros."""


class Runner:
    """Steps the slab's rows through the model. Used on the engine's thread only, in inference mode.

    States are computed into fresh tensors and written back at the end, so a batch that fails leaves
    every session as it was. So does a row with a step that is not finite, for its own session.
    """

    def __init__(self, model: RecurrentModel, slab: Slab, buckets: Buckets) -> None:
        self._model = model
        self._slab = slab
        self._on_host = slab.device.type == "cpu"
        self.buckets = buckets
        self._finite = FiniteRules.of(model)
        self._tokens = model.vocabulary > 0
        row = model.manifest.input.row
        self._row = np.dtype((row.dtype, row.shape))
        # Foreign code may decide by what it computes, and so does the choice of a stage. A record would not.
        decides = model.manifest.foreign or model.manifest.decoder is not None
        record = (Reference() if decides else model.kernel).recorded
        self._first, self._next = record(self._first_step), record(self._next_step)
        # All steps of a chunk at once, where that gives the bits of step after step.
        self._unrolls = model.batch_invariant and not model.unseen_states

    def run(
        self,
        batch: Batch,
        inputs: np.ndarray,
        fed: np.ndarray,
        drawing: Drawing,
        reads: Int64s | None = None,
    ) -> BatchOutputs:
        """Runs a batch.

        Args:
            batch: rows and how many steps of each.
            inputs: uint8[n, steps, input_row_bytes]; what lies behind a row's count is ignored.
            fed: bool[n], rows whose outputs are to be delivered.
            drawing: says which rows draw a token from the output of their last step.
            reads: int64[n], rows of the slab from which the first steps start. None means each row's own.
        """
        if self._unrolls and batch.steps > 1:
            return self._unrolled(batch, inputs, fed, drawing, reads)
        doubts = partial(FiniteSteps, self._finite, batch.counts, fed, drawing)
        finite: FiniteSteps | None = None
        n = len(batch.rows)
        bucket = self.buckets.of(n)
        rows, x = self._rows(batch.rows, bucket), self._padded(inputs, bucket)
        raw, *state = self._first(x[0], rows if reads is None else self._rows(reads, bucket))
        last = raw if bucket == n else raw[:n]
        deliver = np.count_nonzero(fed) > 0
        fields = fields_to_bytes(self._model.finish(last)) if deliver else None
        if not self._finite.hold(last, state, fields):
            finite = doubts()
            finite.check_step(0, last, state)
        steps = [] if fields is None else [fields]
        active, ended = n, list[tuple[Tensor, ...]]()
        for j in range(1, batch.steps):
            if (still := batch.active(j)) < active:
                # Copies, as a recorded step writes where it wrote before.
                ended.append(tuple(part[still:active].clone() for part in (raw, *state)))
                active = still
            width = self.buckets.of(active)
            raw, *state = self._next(x[j, :width], *(s[:width] for s in state))
            fields = fields_to_bytes(self._model.finish(raw[:active])) if deliver else None
            if not self._finite.hold(raw[:active], state, fields):
                finite = finite or doubts()
                finite.check_step(j, raw[:active], state)
            if fields is not None:
                steps.append(fields)
        if batch.steps > 1:
            last = raw[:n]
        if ended:
            rows = rows[:n]
            last, *state = _joined((raw, *state), active, ended)
        self._keep(rows, state, finite)
        outputs = steps[0][:, None] if len(steps) == 1 else _stack(steps, n)
        return BatchOutputs(outputs, last, bucket, finite)

    def _unrolled(
        self,
        batch: Batch,
        inputs: np.ndarray,
        fed: np.ndarray,
        drawing: Drawing,
        reads: Int64s | None,
    ) -> BatchOutputs:
        """The same for chunks, packed by time: those with most steps come first already."""
        n, steps = len(batch.rows), batch.steps
        there = np.arange(steps)[:, None] < batch.counts
        sizes = there.sum(1)
        x = self._typed(inputs.swapaxes(0, 1)[there])
        rows = self._rows(batch.rows, n)
        begins = np.cumsum(sizes) - sizes
        ends = torch.from_numpy(begins[batch.counts - 1] + np.arange(n)).to(self._slab.device)
        before = self._slab.gather(rows if reads is None else self._rows(reads, n))
        outputs = np.empty((n, 0, 0), np.uint8)
        finite: FiniteSteps | None = None
        if fed.any():
            raw, state = self._model.packed(x, sizes.tolist(), before)
            fields = fields_to_bytes(self._model.finish(raw))
            if not self._finite.hold(raw, fields=fields):
                finite = FiniteSteps(self._finite, batch.counts, fed, drawing)
                finite.check_packed(raw, there, state)
            outputs = np.zeros((n, steps, fields.shape[1]), np.uint8)
            outputs.swapaxes(0, 1)[there] = fields
            last = raw[ends]
        else:
            last, state = self._model.packed(x, sizes.tolist(), before, ends)
            if not self._finite.hold(last):
                finite = FiniteSteps(self._finite, batch.counts, fed, drawing)
                finite.check_lasts(last, state)
        self._keep(rows, state, finite)
        return BatchOutputs(outputs, last, n, finite)

    def _keep(self, rows: Tensor, state: Sequence[Tensor], finite: FiniteSteps | None) -> None:
        """Writes the states after a batch into the slab, those of whole rows."""
        if finite is not None and (whole := finite.whole) is not None:
            places = torch.from_numpy(whole).to(self._slab.device)
            rows, state = rows[places], [tensor[places] for tensor in state]
        self._slab.scatter(rows, tuple(state))

    def check_device(self) -> None:
        """After a failure: tells a batch that was at fault from a device that is.

        Raises:
            DeviceLostError: a sequence of one zero fails too.
        """
        try:
            x = self._typed(np.zeros((1, 1, self._row.itemsize), np.uint8))
            self._model.sequence(x, torch.ones(1, dtype=torch.int64))[0].cpu()
        except Exception as error:
            raise DeviceLostError(f"the device fails on zeros: {error}") from error

    def _first_step(self, x: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        """X [bucket, …] and the slab's rows int64[bucket] → raw rows and the state after."""
        raw, state = self._model.step(x, self._slab.tensors, rows)
        return (raw, *state)

    def _next_step(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The same from the state that a step before has left."""
        raw, after = self._model.step(x, state)
        return (raw, *after)

    def _rows(self, rows: Int64s, bucket: int) -> Tensor:
        """Rows of the slab on the device, int64[bucket]; the padding is the scratch row."""
        if bucket > len(rows):
            scratch = np.full(bucket - len(rows), self._slab.scratch_row, np.int64)
            rows = np.concatenate((rows, scratch))
        return self._on_device(rows)

    def _padded(self, inputs: np.ndarray, bucket: int) -> Tensor:
        """The model's inputs on the device: int64[steps, bucket] tokens or [steps, bucket, width] numbers."""
        n, steps, row_bytes = inputs.shape
        if steps == 1 and n == bucket:
            return self._typed(inputs.reshape(1, n, row_bytes))
        padded = np.zeros((steps, bucket, row_bytes), np.uint8)
        padded[:, :n] = inputs.swapaxes(0, 1)
        return self._typed(padded)

    def _typed(self, inputs: np.ndarray) -> Tensor:
        """Rows of the wire uint8[…, input_row_bytes] as the model takes them."""
        x = self._on_device(inputs.view(self._row.base))
        return x[..., 0].long() if self._tokens else x

    def _on_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_host else tensor.to(self._slab.device)


def fields_to_bytes(fields: tuple[Tensor, ...]) -> np.ndarray:
    """Output fields [n, …] of a model as wire rows uint8[n, output_row_bytes]."""
    arrays = [field.cpu().numpy() for field in fields]
    parts = [array.reshape(len(array), -1).view(np.uint8) for array in arrays]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _joined(
    running: tuple[Tensor, ...], active: int, ended: list[tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """The first `active` rows of those that ran to the end, then those that ended, last ones first."""
    parts = (tuple(tensor[:active] for tensor in running), *reversed(ended))
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def _stack(steps: list[np.ndarray], n: int) -> np.ndarray:
    """uint8[n, steps, bytes] from arrays of descending length; the gaps are zero."""
    if not steps:
        return np.empty((n, 0, 0), np.uint8)
    out = np.zeros((n, len(steps), steps[0].shape[1]), np.uint8)
    for j, rows in enumerate(steps):
        out[: len(rows), j] = rows
    return out
