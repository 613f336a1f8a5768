"""The original of a chain, run by onnxruntime, as the reference of an import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carousel_models.agreement import SEQUENCES, STEPS
from carousel_models.importing.imported import NoOriginalError
from carousel_models.importing.ops import Array, Op, Recur, Skip
from carousel_models.probe import MAX_STEPS

from .axes import Atom, Axes
from .graph import Graph, Port
from .reading import Reading
from .recurrent import FORMS
from .walking import Found

Run = Callable[[Array], Array]
"""From inputs [N, T, …] to rows [N, T, W], or to [N, 1, W] where the file gives one row alone."""


@dataclass(frozen=True, slots=True)
class Original:
    """A file, and where its input and its rows have their axes.

    Attributes:
        data: the file's bytes.
        graph: what was read of it.
        found: the chain.
        reading: the roles of the other inputs.
    """

    data: bytes
    graph: Graph
    found: Found
    reading: Reading

    def reference(self) -> tuple[Tensor, Tensor]:
        """Seeded inputs and the file's own rows for them.

        Raises:
            NoOriginalError: onnxruntime is missing or cannot run the file, or its sizes allow no comparison.
        """
        raw, time = self.found.raw, self._time
        self._check_steps()
        fixed = time.size or self.reading.steps_written
        steps = (fixed if raw.steps == "all" else None) or STEPS
        if steps > MAX_STEPS:
            raise NoOriginalError(f"the file takes exactly {steps} steps, more than {MAX_STEPS}")
        count = (self._batch.size if self._batch else None) or SEQUENCES
        x = self._sample(count, steps)
        try:
            run = self._session(relaxed=fixed is not None and raw.steps != "all")
            rows = BY_STEPS[raw.steps](run, x)
        except NoOriginalError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common class
            raise NoOriginalError(f"onnxruntime does not run it: {error}") from error
        return torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(rows, np.float32))

    def _check_steps(self) -> None:
        """Raises NoOriginalError if one row of shorter sequences is not the row of a step."""
        layers = _layers(self.found.raw.ops)
        ways = {"both" if len(one.directions) > 1 else one.backward for one in layers}
        wanted: dict[str, bool] = {
            "all": True,
            "last": ways == {False},
            "first": ways == {True},
            "ends": ways == {"both"} and len(layers) == 1,
        }
        if not wanted[self.found.raw.steps]:
            raise NoOriginalError(
                "it gives one row of a sequence, and those of other steps cannot be computed with it"
            )

    @property
    def _time(self) -> Atom:
        assert self.found.raw.time is not None
        return self.found.raw.time

    @property
    def _entering(self) -> Axes:
        """The axes of the input."""
        return tuple(
            (Atom(f"{self.found.source.name}.{n}", dim if isinstance(dim, int) else None),)
            for n, dim in enumerate(self.found.source.dims)
        )

    @property
    def _batch(self) -> Atom | None:
        """The axis of the input that is neither time nor the row."""
        atoms = [group[0] for group in self._entering]
        others = [atom for atom in atoms if atom != self._time and atom != self._row]
        return others[0] if others else None

    @property
    def _row(self) -> Atom | None:
        """The axis of the input that has the rows. None for tokens."""
        if self.found.chain.embedding is not None:
            return None
        used = {atom for group in self.found.raw.axes for atom in group} | {self._time}
        atoms = [group[0] for group in self._entering]
        free = [atom for atom in atoms if atom not in used]
        return free[-1]

    def _sample(self, count: int, steps: int) -> Array:
        random = np.random.default_rng(0)
        embedding = self.found.chain.embedding
        if embedding is not None:
            return random.integers(0, len(embedding), (count, steps))
        row = self._row
        assert row is not None
        if row.size is None:
            raise NoOriginalError("the file leaves the width of its rows open")
        return random.standard_normal((count, steps, row.size)).astype(np.float32)

    def _session(self, *, relaxed: bool) -> Run:
        """Runs the file, with the rows before transform and selection as its only output."""
        import onnx

        from carousel_models.programs.onnx_program import onnxruntime

        raw = self.found.raw
        model = onnx.load_from_string(self.data)
        graph = model.graph
        inner = {name for node in graph.node for name in node.output}
        if raw.tensor not in inner:
            raise NoOriginalError("the rows before its end are inside of a function of the file")
        del graph.value_info[:]  # exporters write sizes of the example there
        del graph.output[:]
        graph.output.append(onnx.ValueInfoProto(name=raw.tensor))
        if relaxed:
            _relax(graph, self.reading.open_reshapes)
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        kinds = {port.name: port.type for port in session.get_inputs()}

        def run(x: Array) -> Array:
            if self._batch is None:
                return np.concatenate([once(one[None]) for one in x])
            return once(x)

        def once(x: Array) -> Array:
            feed = self._feed(x, kinds)
            (rows,) = session.run(None, feed)
            return self._leaving(rows, len(x))

        return run

    def _feed(self, x: Array, kinds: dict[str, str]) -> dict[str, Array]:
        order = [self._batch, self._time, *([] if self._row is None else [self._row])]
        atoms = [group[0] for group in self._entering]
        given = x if self._batch is not None else x[0]
        order = order if self._batch is not None else order[1:]
        feed = {self.found.source.name: given.transpose([order.index(atom) for atom in atoms])}
        ports = {port.name: port for port in self.graph.inputs}
        for name in self.reading.states:
            feed[name] = np.zeros(_dims(ports[name], len(x)))
        for name in self.reading.lengths:
            feed[name] = np.full(_dims(ports[name], len(x)), x.shape[1])
        return {name: array.astype(_DTYPES[kinds[name]]) for name, array in feed.items()}

    def _leaving(self, rows: Array, count: int) -> Array:
        """From the file's axes to [N, T, W]."""
        raw = self.found.raw
        sizes = list(rows.shape)
        groups = list(raw.axes)
        row = list(raw.row)
        flat = [atom for group in groups for atom in group]
        known: dict[Atom, int] = {}
        for group, size in zip(groups, sizes, strict=True):
            for atom in group:
                known[atom] = size if len(group) == 1 else atom.size or -1
        if self._batch is not None:
            known[self._batch] = count
        rows = rows.reshape([known[atom] for atom in flat])
        wanted = [atom for atom in (self._batch, self._time) if atom in flat] + row
        rows = rows.transpose([flat.index(atom) for atom in wanted])
        width = int(np.prod(rows.shape[len(wanted) - len(row) :]))
        return rows.reshape(count, -1, width)


def _layers(ops: tuple[Op, ...]) -> list[Recur]:
    """The recurrent layers, also those inside of residuals."""
    inner = [_layers(op.ops) for op in ops if isinstance(op, Skip)]
    return [op for op in ops if isinstance(op, Recur)] + [op for one in inner for op in one]


def _relax(graph: Any, open_reshapes: Mapping[str, list[int]]) -> None:
    """Opens the sizes of all inputs, where a file has those of the sequence that it was exported with.

    Lengths that are constants are those of that sequence too, and so are numbers of Reshapes.
    """
    import onnx

    ports = {port.name for port in graph.input}
    for node in graph.node:
        if node.op_type in FORMS and len(node.input) > 4 and node.input[4] not in ports:
            node.input[4] = ""
        if node.op_type == "Reshape" and node.output[0] in open_reshapes:
            dims = np.array(open_reshapes[node.output[0]])
            node.input[1] = f"{node.output[0]}.dims"
            graph.initializer.append(onnx.numpy_helper.from_array(dims, node.input[1]))
            del node.attribute[:]  # without allowzero, a 0 copies the size
    for port in graph.input:
        for number, dim in enumerate(port.type.tensor_type.shape.dim):
            dim.dim_param = f"{port.name}.{number}"


def _dims(port: Port, batch: int) -> list[int]:
    return [dim if isinstance(dim, int) else batch for dim in port.dims]


def _all_steps(run: Run, x: Array) -> Array:
    return run(x)


def _last(run: Run, x: Array) -> Array:
    """The row of each step as the last row of the steps up to it."""
    return np.concatenate([run(x[:, : end + 1]) for end in range(x.shape[1])], axis=1)


def _first(run: Run, x: Array) -> Array:
    """The row of each step as the first row of the steps from it on."""
    return np.concatenate([run(x[:, start:]) for start in range(x.shape[1])], axis=1)


def _ends(run: Run, x: Array) -> Array:
    """Both, for the two directions of one layer."""
    forward, backward = _last(run, x), _first(run, x)
    half = forward.shape[2] // 2
    return np.concatenate((forward[..., :half], backward[..., half:]), axis=2)


BY_STEPS: dict[str, Callable[[Run, Array], Array]] = {
    "all": _all_steps,
    "last": _last,
    "first": _first,
    "ends": _ends,
}
"""The rows of all steps, by the rows that the file gives."""

_DTYPES = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
