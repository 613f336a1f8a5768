"""Loads and checks the native library. Its layers pack their weights once, and step rows in memory."""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from carousel_models.cell_facts import facts_of
from carousel_models.cells import Weights, code_of
from carousel_models.errors import KernelError
from carousel_models.lookup import entry

from .compiling import is_whole, level, library_files
from .operands import check_slots, check_source, check_targets, check_weights, checked

log = logging.getLogger(__name__)

_WITHOUT_CELL: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda sums: sums,
    "sigmoid": torch.sigmoid,
}
"""Layers that are not cells, with their function of W·[h, x] + b."""

CELLS_NATIVE: dict[str, int] = dict.fromkeys(_WITHOUT_CELL, 1) | {
    cell: facts_of(cell).gates for cell in ("rnn_tanh", "rnn_relu", "lstm", "gru")
}
"""Number of gate blocks of each native layer, in the order of the library's enum."""

_WITH_C = ("lstm",)
"""Native layers with a second state c."""

_NO_MEMORY, _OUTSIDE = 1, 2

_NANS = (0x7FC00000, 0x7FC00001, 0x7FFFFFFF, -0x00001000)
_INFINITIES = (0x7F800000, -0x00800000)
"""Bits of numbers that are not finite. NaNs with any sign and payload must stay NaN."""


class _Layer(ctypes.Structure):
    """`struct Layer` of layer.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("cell", "bf16", "inputs", "recurrent", "units")),
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


class _Target(ctypes.Structure):
    """`struct Target` of layer.cpp."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("row_bytes", "rows")),
    ]


class Library:
    """The functions of a library file. OSError if it cannot be loaded."""

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        if not is_whole(Path(path)):
            raise OSError("the file is not a whole library")
        functions = ctypes.CDLL(path)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self.weight_bytes = functions.carousel_weight_bytes
        self.bias_bytes = functions.carousel_bias_bytes
        for function in (self.weight_bytes, self.bias_bytes):
            function.argtypes, function.restype = [pointer], number
        self.pack = functions.carousel_pack
        self.pack.argtypes, self.pack.restype = [pointer] * 5, None
        self.step = functions.carousel_step
        self.step.argtypes = [pointer, number, pointer, number, *[pointer] * 5, number]
        self.sequence = functions.carousel_sequence
        self.sequence.argtypes = [pointer, number, *[pointer] * 5, number]
        self.scatter = functions.carousel_scatter
        self.scatter.argtypes = [number, pointer, number, pointer, pointer]


class NativeLayer:
    """One layer's packed weights. Immutable. Any thread may step it.

    Args:
        library: the library.
        cell: a name in CELLS_NATIVE.
        weights: as in `cells`; for "linear" with an `hh` of no columns.

    Raises:
        ValueError: the weights' shapes do not fit a layer.
        KernelError: the library has no such layer, or torch's memory is not aligned.
    """

    def __init__(self, library: Library, cell: str, weights: Weights) -> None:
        gates = entry(CELLS_NATIVE, cell, "native layer", KernelError, "add it to layer.cpp")
        check_weights(weights, cell, gates)
        self.inputs, self.recurrent = weights.ih.shape[1], weights.hh.shape[1]
        self.units = len(weights.ih) // gates
        self._has_c = _has_c(cell)
        self._run, self._unroll = library.step, library.sequence
        bf16 = weights.ih.dtype == torch.bfloat16
        layer = _Layer(
            list(CELLS_NATIVE).index(cell),
            bf16,
            self.inputs,
            self.recurrent,
            self.units,
            None,
            None,
        )
        self._layer = layer
        self._address = address = ctypes.addressof(layer)
        self._weights = _memory(library.weight_bytes(address))
        self._bias = _memory(library.bias_bytes(address))
        layer.weights, layer.bias = self._weights.data_ptr(), self._bias.data_ptr()
        given = [_plain(t) for t in (weights.ih, weights.hh, weights.bias_ih, weights.bias_hh)]
        library.pack(address, *(_address(tensor) for tensor in given))

    def step(
        self,
        x: Tensor,
        h: Tensor | None = None,
        c: Tensor | None = None,
        slots: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """One step: x float32[B, inputs], h [B, recurrent], c [B, units] → h, or h and c, [B, units] each.

        With `slots`, row i's state is row slots[i] of h and c. A layer with a state needs its h, and an
        lstm its c.

        Raises:
            TypeError: a tensor has another type, or is on another device.
            ValueError: a tensor has another shape, or is missing, or the layer has none such.
            IndexError: a slot lies outside of h and c.
        """
        n = states = x.shape[0]
        x = checked(x, (n, self.inputs), "x")
        if h is not None:
            if slots is not None:
                check_slots(slots, n)
                states = h.shape[0]
            h = checked(h, (states, self.recurrent), "h")
        elif self.recurrent or slots is not None:
            raise ValueError("h is missing")
        if (c is not None) is not self._has_c:
            raise ValueError("c is missing" if self._has_c else "only an lstm has a c")
        out, after = x.new_empty(n, self.units), None
        if c is not None:
            c = checked(c, (states, self.units), "c")
            after = x.new_empty(n, self.units)
        outcome = self._run(
            *(self._address, n, x.data_ptr(), states, _address(slots), _address(h), _address(c)),
            *(out.data_ptr(), _address(after), torch.get_num_threads()),
        )
        _check_outcome(outcome)
        return (out,) if after is None else (out, after)

    def sequence(
        self, x: Tensor, sizes: Sequence[int], h: Tensor, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Many steps, with the bits of step after step.

        Args:
            x: float32[rows, inputs], by time: sizes[0] rows, then sizes[1], which are the first of those.
            sizes: descending, none zero; as many as there are times.
            h: [sizes[0], units], before the first step.
            c: the same, of an lstm.

        Returns:
            h after each step [rows, units]; then h, or h and c, [sizes[0], units] after each sequence's last.

        Raises:
            TypeError, ValueError: as `step`; or the sizes are none, or the layer hands on no state.
        """
        if self.recurrent != self.units:
            raise ValueError("the layer has no state of its own")
        if not sizes or any(a < b for a, b in pairwise((*sizes, 1))):
            raise ValueError(f"{list(sizes)} are no sizes of sequences")
        if (c is not None) is not self._has_c:
            raise ValueError("c is missing" if self._has_c else "only an lstm has a c")
        x = checked(x, (sum(sizes), self.inputs), "x")
        h = checked(h, (sizes[0], self.units), "h").clone()
        if c is not None:
            c = checked(c, (sizes[0], self.units), "c").clone()
        out = x.new_empty(len(x), self.units)
        outcome = self._unroll(
            *(self._address, len(sizes), (ctypes.c_int64 * len(sizes))(*sizes), x.data_ptr()),
            *(h.data_ptr(), _address(c), out.data_ptr(), torch.get_num_threads()),
        )
        _check_outcome(outcome)
        return (out, h) if c is None else (out, h, c)


class NativeTargets:
    """Tensors [rows, …] into which rows are written.

    Raises:
        TypeError: one is on another device.
        ValueError: one does not lie row after row.
    """

    def __init__(self, library: Library, targets: Sequence[Tensor]) -> None:
        self._run = library.scatter
        self._targets = tuple(targets)
        check_targets(self._targets)
        # Not the strides: that of a single row may be anything.
        self._kinds = [(math.prod(t.shape[1:]), t.dtype) for t in targets]
        self._table = (_Target * len(targets))(
            *(
                _Target(t.data_ptr(), elements * t.element_size(), len(t))
                for t, (elements, _) in zip(targets, self._kinds, strict=True)
            )
        )
        self._addresses = ctypes.c_void_p * len(targets)

    def write(self, slots: Tensor, sources: tuple[Tensor, ...]) -> None:
        """Row i of each source becomes row slots[i] of its target.

        Raises:
            TypeError: slots are not int64, or a source has another type than its target.
            ValueError: slots are not one row, or there are not as many rows and sources.
            IndexError: a slot lies outside of a target.
        """
        n = slots.numel()
        check_slots(slots, n)
        given = []
        for source, (elements, dtype) in zip(sources, self._kinds, strict=True):
            check_source(source, dtype, n, elements)
            given.append(source if source.is_contiguous() else source.contiguous())
        addresses = self._addresses(*(source.data_ptr() for source in given))
        _check_outcome(self._run(len(given), self._table, n, slots.data_ptr(), addresses))


def _check_outcome(outcome: int) -> None:
    """Raises the exception for a return value of the library, if it is an error."""
    if outcome == _NO_MEMORY:
        raise MemoryError("the native kernel found no memory for its sums")
    if outcome == _OUTSIDE:
        raise IndexError("a slot lies outside of the slab")


_finding = threading.Lock()
"""Held during the search for a library, so that models loaded in parallel wait for one compiler."""


def load_library() -> Library:
    """The library for this processor, from the first search in this process.

    Raises:
        KernelError: there is none, or it computes wrongly. The compiler does not run again.
    """
    with _finding:
        found = _first_found()
    if isinstance(found, KernelError):
        raise KernelError(str(found)) from found
    return found


@functools.cache
def _first_found() -> Library | KernelError:
    try:
        return find_library()
    except KernelError as error:
        return error


def find_library() -> Library:
    """Finds or compiles the library for this processor, and checks it.

    Raises:
        KernelError: there is none here, or it computes wrongly.
    """
    found = _open(level())
    for dtype in (torch.float32, torch.bfloat16):
        for cell in CELLS_NATIVE:
            _check(found, cell, dtype)
    return found


def _open(name: str) -> Library:
    """The first file that can be loaded. The last one is newly compiled."""
    refused = "no file"
    for path in library_files(name):
        try:
            return Library(str(path), path.stem.removeprefix("carousel-"))
        except (OSError, AttributeError) as error:
            refused = f"{path} cannot be loaded: {error}"
            log.warning("a native library is skipped: %s", refused)
    raise KernelError(refused)


def _check(library: Library, cell: str, dtype: torch.dtype) -> None:
    """Compares a few rows with the reference, because a compiler or a processor may have faults.

    Weights and operands are numbers of bfloat16, so that float32 is correct for both types. Some rows have
    NaN or infinity, in the input or in the state.
    """
    random = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=random) - 0.5).to(dtype).float()

    numbers, inputs, units = 5, 19, 21
    rows = numbers + 2 * len(_NANS) + len(_INFINITIES)
    gates = CELLS_NATIVE[cell] * units
    weights = Weights(matrix(gates, inputs), matrix(gates, units), matrix(gates), matrix(gates))
    x, h, c = matrix(rows, inputs), matrix(rows, units), matrix(rows, units)
    odd = torch.tensor(_NANS + _INFINITIES + _NANS, dtype=torch.int32).view(torch.float32)
    x[numbers : -len(_NANS), 3] = odd[: -len(_NANS)]
    h[-len(_NANS) :, 20] = odd[-len(_NANS) :]
    state = (h, c) if _has_c(cell) else (h,)
    gates_x = F.linear(x, weights.ih, weights.bias_ih)
    expected: tuple[Tensor, ...]
    if cell in _WITHOUT_CELL:
        sums = gates_x + F.linear(h, weights.hh, weights.bias_hh)
        expected = (_WITHOUT_CELL[cell](sums),)
    else:
        expected = code_of(cell).step(gates_x, state, weights)[1]
    typed = weights._replace(ih=weights.ih.to(dtype), hh=weights.hh.to(dtype))
    layer = NativeLayer(library, cell, typed)
    after = layer.step(x, *state)
    good = all(
        torch.allclose(found, right, rtol=1e-5, atol=1e-5, equal_nan=True)
        for found, right in zip(after, expected, strict=True)
    )
    if cell not in _WITHOUT_CELL:
        _, *unrolled = layer.sequence(torch.cat((x, x[:numbers])), (rows, numbers), *state)
        twice = layer.step(x[:numbers], *(tensor[:numbers] for tensor in after))
        good = good and all(
            torch.equal(found[:numbers], right)
            for found, right in zip(unrolled, twice, strict=True)
        )
    if not good:
        raise KernelError(f"the native kernel computes {cell} in {dtype} wrongly here")


def _has_c(cell: str) -> bool:
    return cell in _WITH_C


def _memory(size: int) -> Tensor:
    """Memory for weights. Torch's begins at a multiple of 64 bytes, as the library requires."""
    memory = torch.empty(size, dtype=torch.uint8, device="cpu")
    if memory.data_ptr() % 64:
        raise KernelError("torch's memory does not begin at a multiple of 64 bytes")
    return memory


def _plain(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().cpu().contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
