"""Runs a module once and records its operations as a torch.fx graph, with torch's own layers as leaves.

The module gets real tensors, not proxies. So all of Python works in `forward`: sizes, loops over steps,
checks, and packed sequences.
"""

from __future__ import annotations

import operator
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from carousel_models.agreement import as_served
from carousel_models.cells import MODULES
from carousel_models.errors import PackageError
from carousel_models.wrappers import unwrapped

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_DECISIONS = frozenset({
    Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__contains__, Tensor.item,
    Tensor.tolist, Tensor.numpy, Tensor.equal, Tensor.allclose, torch.equal, torch.allclose, torch.is_nonzero,
})  # fmt: skip
"""Functions that make numbers of Python from those of a tensor, by which code may take another way."""


def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Graph:
    """The operations of one call, in eval mode without gradients.

    Args:
        module: the user's module.
        args: the first one is the tensor that becomes the graph's placeholder. All others are constants.
        kwargs: constants.

    Returns:
        A graph. `meta` of each node has `value`, the result, `line`, the line of code that made the call, and
        `path`, the name of the module that was running. `meta["decisions"]` of the placeholder has the lines
        of code that made numbers of Python from those of the input.

    Raises:
        Exception: of the module.
    """
    recorder = _Recorder(module)
    recorder.enter(args[0])
    with as_served(module), _leaves(recorder), _eager(), recorder:
        result = module(*args, **kwargs)
    recorder.leave(result)
    return recorder.graph


def is_leaf(module: nn.Module) -> bool:
    """True for recurrent modules and for layers of torch, also where they are subclassed or parametrised."""
    if isinstance(module, MODULES):
        return True
    kinds = (kind.__module__ for kind in type(module).__mro__)
    kind = next(name for name in kinds if name != "torch.nn.utils.parametrize")
    return kind.startswith("torch.") and not isinstance(module, _CONTAINERS)


class _Recorder(TorchFunctionMode):
    """Writes a graph. A value is known by its tensor's identity, so every tensor is kept until the end."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._kept: list[Tensor] = []
        self._thread = threading.get_ident()
        self._paths = {id(part): name for name, part in root.named_modules()}
        self._running: list[str] = []
        named = (*root.named_parameters(), *root.named_buffers())
        self._names = {id(tensor): name for name, tensor in named}
        self._paused = False
        self._input: fx.Node | None = None
        self._decisions: dict[str, None] = {}

    @property
    def records(self) -> bool:
        """True on the thread of the run, outside of leaves."""
        return not self._paused and threading.get_ident() == self._thread

    def enter(self, x: Tensor) -> None:
        """Makes the placeholder."""
        self._input = self.graph.placeholder("x")
        self._note(self._input, x)

    def leave(self, result: Any) -> None:
        """Makes the output."""
        self.graph.output(self._mapped(result))
        assert self._input is not None
        self._input.meta["decisions"] = tuple(self._decisions)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.records:
            return result
        if func in _DECISIONS and any(map(self._is_of_input, args)):
            self._decisions[_line()] = None
        if func is Tensor.__setitem__:
            self._add(self.graph.call_function(func, *self._given(args, kwargs)), args[0])
        elif _tensors(result):
            self._add(self.graph.call_function(func, *self._given(args, kwargs)), result)
        return result

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[None]:
        """While a module that is no leaf runs."""
        self._running.append(self._paths.get(id(module), type(module).__name__))
        try:
            yield
        finally:
            self._running.pop()

    def leaf(self, module: nn.Module, run: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        """Runs a leaf as one operation."""
        self._paused = True
        try:
            result = run()
        finally:
            self._paused = False
        path = self._paths.get(id(module), type(module).__name__)
        given = self._given(args, kwargs)
        node = self.graph.create_node("call_module", path, *given, name=path.replace(".", "_"))
        node.meta["module"] = module
        self._add(node, result)
        return result

    def _is_of_input(self, value: Any) -> bool:
        """True for a tensor that depends on the input's numbers."""
        waiting = [self._nodes[id(value)]] if id(value) in self._nodes else []
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            if node is self._input:
                return True
            waiting += [before for before in node.all_input_nodes if before not in seen]
            seen.update(node.all_input_nodes)
        return False

    def _add(self, node: fx.Node, result: Any) -> None:
        node.meta["path"] = self._running[-1] if self._running else ""
        node.meta["line"] = _line()
        self._note(node, result)

    def _note(self, node: fx.Node, result: Any) -> None:
        """Keeps a node's result; elements of a tuple get nodes of their own."""
        node.meta["value"] = result
        if isinstance(result, Tensor):
            self._nodes[id(result)] = node
            self._kept.append(result)
        elif isinstance(result, tuple | list):
            for place, part in enumerate(result):
                if _tensors(part):
                    inner = self.graph.call_function(operator.getitem, (node, place))
                    inner.meta.update(node.meta)
                    self._note(inner, part)

    def _given(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return self._mapped(tuple(args)), self._mapped(dict(kwargs))

    def _mapped(self, part: Any) -> Any:
        """Arguments with nodes instead of tensors."""
        if isinstance(part, Tensor):
            return self._nodes.get(id(part)) or self._constant(part)
        if isinstance(part, tuple | list):
            inner = [self._mapped(one) for one in part]
            return tuple(inner) if isinstance(part, tuple) else inner
        if isinstance(part, dict):
            return {str(name): self._mapped(one) for name, one in part.items()}
        if isinstance(part, slice):
            return slice(*(self._mapped(one) for one in (part.start, part.stop, part.step)))
        if isinstance(part, fx.node.base_types) or part is None or part is Ellipsis:
            return part
        return repr(part)

    def _constant(self, tensor: Tensor) -> fx.Node:
        name = self._names.get(id(tensor), f"_constant{len(self._kept)}")
        node = self.graph.create_node("get_attr", name, name=name.replace(".", "_"))
        node.meta.update(path="", line="")
        self._note(node, tensor)
        return node


@contextmanager
def _leaves(recorder: _Recorder) -> Iterator[None]:
    """Calls of leaves are one operation each; wrappers are left out."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not recorder.records:
            return original(module, *args, **kwargs)
        module = unwrapped(module)
        if is_leaf(module):
            return recorder.leaf(module, lambda: original(module, *args, **kwargs), args, kwargs)
        with recorder.running(module):
            return original(module, *args, **kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def _eager() -> AbstractContextManager[object]:
    """Compiled functions run as they were written."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


def _tensors(part: Any) -> bool:
    if isinstance(part, tuple | list):
        return any(map(_tensors, part))
    return isinstance(part, Tensor)


def _line() -> str:
    """The user's line of code, FILE:LINE, or "" if all frames are torch's or ours."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack reads files, which is slow
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE, "<frozen")) and "contextlib" not in file:
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def refuse_meta(module: nn.Module) -> None:
    """Raises PackageError if weights have no numbers."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise PackageError(
                f"{name} has no shape yet; run the lazy module once before it is saved"
            )
        if tensor.is_meta:
            raise PackageError(
                f"{name} is on the meta device and has no numbers; load the weights first"
            )
