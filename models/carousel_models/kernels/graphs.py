"""Graphs: what a function launches on a CUDA device, recorded once and replayed in one call.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. A replay reads and writes the memory
that was there when it was recorded, so arguments are copied in, and results always stand in the same tensors.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .interface import Function

log = logging.getLogger(__name__)

_one_at_a_time = threading.Lock()
"""Held while a graph is recorded: a process may record one, and nobody may wait for the whole device then."""

Outputs = tuple[Tensor, ...]
Run = Callable[[], Outputs]
Replay = Callable[[], None]


class Recorder(Protocol):
    """Records launches on a device."""

    def rehearse(self, run: Run) -> None:
        """Runs it as it is: what a first call makes ready must not be part of a record."""

    def record(self, run: Run) -> tuple[Replay, Outputs]:
        """Records it without running it: how to replay it, and where its results will stand.

        Raises:
            RuntimeError: it does what cannot be recorded.
        """


class _Record(NamedTuple):
    inputs: tuple[Tensor, ...]
    replay: Replay
    outputs: Outputs


class Graphs:
    """A function of tensors with a record for each shape of its arguments; implements `Function`.

    There are as many records as shapes, which its caller bounds: the engine's are its buckets. Used on one
    thread at a time.
    """

    def __init__(self, function: Function, recorder: Recorder) -> None:
        self._function = function
        self._recorder = recorder
        # None: shapes that could not be recorded, and are not tried again.
        self._records: dict[tuple[torch.Size, ...], _Record | None] = {}

    def __call__(self, *arguments: Tensor) -> Outputs:
        """The function's results; see `Kernel.recorded` for how long they stand."""
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self._records:
            self._records[shapes] = self._record(arguments)
        record = self._records[shapes]
        if record is None:
            return self._function(*arguments)
        torch._foreach_copy_(record.inputs, arguments)
        record.replay()
        return record.outputs

    def _record(self, arguments: tuple[Tensor, ...]) -> _Record | None:
        """What fails here with the function itself is its caller's to know, and nothing is remembered."""
        inputs = tuple(argument.clone() for argument in arguments)
        run = partial(self._function, *inputs)
        self._recorder.rehearse(run)
        try:
            return _Record(inputs, *self._recorder.record(run))
        except RuntimeError as error:
            shape = list(arguments[0].shape)
            log.warning("steps of %s are launched one by one: no graph of them: %s", shape, error)
            return None


class CudaRecorder:
    """Records on a stream of its own.

    All records share one pool of memory, so that what a replay leaves may be overwritten by the next one.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, run: Run) -> None:
        """See `Recorder.rehearse`."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with _one_at_a_time, torch.cuda.stream(self._stream):
            run()
            self._stream.synchronize()

    def record(self, run: Run) -> tuple[Replay, Outputs]:
        """See `Recorder.record`; other models' threads may go on meanwhile."""
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        # The outer context gives the thread its stream back; the inner one does not where it fails.
        with _one_at_a_time, torch.cuda.stream(self._stream), recording:
            outputs = run()
        return graph.replay, outputs
