"""Reads a whole module: how it is called, what it computes, and its own rows to compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from carousel_models.errors import PackageError
from carousel_models.spec import Output, SelectFull
from carousel_models.wrappers import unwrapped

from .assembly import Assembled, assemble
from .calling import Calling, callings
from .calls import Sizes
from .chains import BranchError, MisfitError, chain_of
from .graphs import assemble_graph
from .own import OwnRows, recorded
from .recording import refuse_meta
from .result import outputs_of
from .values import Expr, Rows

SIZES = Sizes(batch=3, steps=5)


@dataclass(frozen=True, slots=True)
class Whole:
    """A module that was read.

    Attributes:
        rows: its own rows.
        assembled: the manifest's parts, and the tensors.
        decisions: lines of its code that may take another way for other numbers.
    """

    rows: OwnRows
    assembled: Assembled
    decisions: tuple[str, ...]

    @property
    def initial(self) -> dict[str, Tensor]:
        """States with which sessions begin, by name. Those that are not there begin with zeros."""
        return self.assembled.initial

    def converted(self, output: Output) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Fields of the manifest, and the tensors.

        Args:
            output: a further transform and selection, where the module has none.

        Raises:
            PackageError: both have a transform or a selection.
        """
        found = {}
        for name, none in (("transform", "identity"), ("select", SelectFull())):
            asked, own = getattr(output, name), getattr(self.rows.output, name)
            if none not in (asked, own):
                raise PackageError(
                    f"the module has a {name} already ({_shown(own)}), and {name}= asks for another; leave "
                    "one out"
                )
            found[name] = own if asked == none else asked
        return self.assembled.parts | {"output": Output(**found)}, self.assembled.tensors


def _shown(part: Any) -> str:
    return str(getattr(part, "kind", part))


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call of a module that ran.

    Attributes:
        calling: how it was called.
        read: what it returned, as values.
        known: number of operations that were understood.
        decisions: lines of code that may take another way for other numbers.
        misfit: why a manifest cannot describe it.
    """

    calling: Calling
    read: Any
    known: int
    decisions: tuple[str, ...]
    misfit: MisfitError | None = None


def read_module(module: nn.Module, features: int | None, example: Any) -> Whole | Attempt:
    """Reads a module.

    Args:
        module: the user's. Wrappers of torch are left out.
        features: the input's width, where it does not follow from the module.
        example: x, or (x, other arguments), where these do not follow from the module.

    Returns:
        The module as parts, or the attempt that went furthest.

    Raises:
        PackageError: the module cannot be run.
    """
    module = unwrapped(module)
    refuse_meta(module)
    attempts: list[Attempt] = []
    failures: list[Exception] = []
    for calling in callings(module, features, example):
        attempt = _tried(calling)
        if isinstance(attempt, Exception):
            failures.append(attempt)
            continue
        try:
            return _whole(attempt)
        except MisfitError as misfit:
            attempts.append(replace(attempt, misfit=misfit))
    if attempts:
        return max(attempts, key=lambda attempt: attempt.known)
    raise PackageError(
        f"the module fails on every input that was tried: {failures[0]!r}; give example=, the arguments of "
        "one call, as example=x or example=(x, lengths)"
    ) from failures[0]


def _whole(attempt: Attempt) -> Whole:
    """The module as parts. Raises MisfitError."""
    rows = OwnRows(attempt.calling, outputs_of(attempt.read), attempt.read)
    assembled = _assembled(rows.core, attempt.calling.width)
    _check_time(rows.outputs[0], assembled)
    return Whole(rows, assembled, attempt.decisions)


def _assembled(core: Expr, width: int) -> Assembled:
    """A stack of layers, or a chain of parts where branches need one.

    Raises:
        MisfitError: neither can describe the rows.
    """
    try:
        return assemble(chain_of(core), width)
    except BranchError:
        return assemble_graph(core, width)


def _tried(calling: Calling) -> Attempt | Exception:
    """A recorded run, or the exception of the module."""
    try:
        graph, values = recorded(calling, calling.sample(SIZES))
    except PackageError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        return error
    source = next(iter(graph.nodes))
    return Attempt(calling, values, _known(graph), source.meta["decisions"])


def _known(graph: fx.Graph) -> int:
    """How many operations were understood, of those that depend on the input."""
    return sum(isinstance(node.meta.get("read"), Rows) for node in graph.nodes)


def _check_time(rows: Rows, assembled: Assembled) -> None:
    if rows.time is None:
        return
    if rows.time != SIZES.steps - 1:
        raise MisfitError(
            "the module's result", f"it is the row of step {rows.time} and not of the last one"
        )
    if not all(layer.causal for layer in assembled.layers):
        raise MisfitError(
            "the module's result",
            "it is the last row of layers that read both ways, whose backward half has seen one step there; "
            "give all rows",
        )


def rows_of(module: nn.Module, features: int | None, example: Any) -> OwnRows:
    """The rows of a module, which need not fit a manifest.

    Raises:
        MisfitError: its result does not have the form of rows.
        PackageError: it cannot be run.
    """
    found = read_module(module, features, example)
    if isinstance(found, Whole):
        return found.rows
    return OwnRows(found.calling, outputs_of(found.read), found.read)
