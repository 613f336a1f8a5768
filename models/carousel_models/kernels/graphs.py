"""Graphs: records a function's launches on a CUDA device, and replays them in one call.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. A replay uses the memory of the
record, so arguments are copied into it, and results are always in the same tensors.
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
"""Held while a graph is recorded. A process may record one at a time, and must not synchronise then."""

Outputs = tuple[Tensor, ...]
Run = Callable[[], Outputs]
Replay = Callable[[], None]


class Recorder(Protocol):
    """Records launches on a device."""

    def rehearse(self, run: Run) -> None:
        """Runs the function once, because a first call does work that must not be recorded."""

    def record(self, run: Run) -> tuple[Replay, Outputs]:
        """Records the function without running it. Returns the replay, and the tensors of its results.

        Raises:
            RuntimeError: the function cannot be recorded.
        """


class _Record(NamedTuple):
    inputs: tuple[Tensor, ...]
    replay: Replay
    outputs: Outputs


class Graphs:
    """A function of tensors with a record for each shape of its arguments. It is a `Function`.

    There are as many records as shapes, whose number the caller must bound. The engine's are its buckets. One
    thread at a time may use it.
    """

    def __init__(self, function: Function, recorder: Recorder) -> None:
        self._function = function
        self._recorder = recorder
        # None: shapes that could not be recorded, and are not tried again.
        self._records: dict[tuple[torch.Size, ...], _Record | None] = {}

    def __call__(self, *arguments: Tensor) -> Outputs:
        """The function's results. `Kernel.recorded` says how long they are valid."""
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
        """Records the shape. An error of the function itself is raised, and nothing is stored."""
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

    All records share one pool of memory, so a replay may overwrite the results of the one before.
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
        # The outer context restores the thread's stream, which the inner one does not after a failure.
        with _one_at_a_time, torch.cuda.stream(self._stream), recording:
            outputs = run()
        return graph.replay, outputs
