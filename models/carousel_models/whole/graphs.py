"""Makes a chain of parts from expressions that branch: concatenated skips, gates, residuals of any kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from carousel_models.chain_parts import LayersPart, RowsPart
from carousel_models.from_torch import convert_stack
from carousel_models.joining_parts import AddPart
from carousel_models.spec import FeaturesInput, TokensInput
from carousel_models.stack_parts import MAX_PARTS, SOURCE, StackPart

from .assembly import Assembled, add_head, initial_of, rows_of
from .chains import MisfitError, inputs_of
from .values import Added, Affine, Computed, Embedded, Expr, Foreign, Recurrent, Source


def assemble_graph(core: Expr, width: int) -> Assembled:
    """The manifest's input, parts and head, and all tensors.

    Args:
        core: the rows before transform and selection.
        width: of features, 0 for tokens.

    Raises:
        MisfitError: a chain of parts cannot describe an expression.
    """
    graph = _Graph(_in_order(core), core)
    graph.build(width)
    return graph.made


@dataclass(slots=True)
class _Graph:
    """Parts while they are made.

    Attributes:
        order: all expressions, each behind those that it is computed from.
        core: the last one.
    """

    order: list[Expr]
    core: Expr
    made: Assembled = field(default_factory=Assembled)
    _parts: list[StackPart] = field(default_factory=list)
    _names: dict[Expr, str] = field(default_factory=dict)
    _uses: Counter[Expr] = field(default_factory=Counter)

    def build(self, width: int) -> None:
        """Makes all parts, and the head of the rows that nothing else reads."""
        if not any(isinstance(one, Recurrent) for one in self.order):
            raise MisfitError("the module", "it has no recurrent layer")
        self._uses.update(one for expr in self.order for one in inputs_of(expr))
        self.made.parts["input"] = FeaturesInput(width=width) if width else None
        head = self._run(self.core) if isinstance(self.core, Affine | Computed) else []
        inner = {one for expr in self.order for one in self._run(expr)[:-1]}
        for expr in self.order:
            if expr not in inner and expr not in head:
                self._names[expr] = self._put(expr)
        if self.made.parts["input"] is None or len(self._parts) > MAX_PARTS:
            raise MisfitError("the module", f"it has no input, or more than {MAX_PARTS} parts")
        add_head(self.made, rows_of(head))
        self.made.parts |= {"stack": (), "custom": None, "parts": tuple(self._parts)}

    def _run(self, expr: Expr) -> list[Expr]:
        """The operations on single rows that end here, of which nothing else reads what is between."""
        if not isinstance(expr, Affine | Computed):
            return []
        before = expr.x
        alone = before is not None and self._uses[before] == 1
        return [*(self._run(before) if alone and before is not None else []), expr]

    def _put(self, expr: Expr) -> str:
        """The name of an expression's part, or of the input."""
        match expr:
            case Source():
                return SOURCE
            case Embedded():
                return self._embedded(expr)
            case Recurrent():
                return self._layers(expr)
            case Added():
                return self._joined(AddPart, expr)
            case Foreign(joins=joins) if joins is not None:
                return self._joined(joins, expr)
            case Affine() | Computed():
                return self._rows(expr)
        raise MisfitError(expr.where, "it is in the middle of the model")

    def _embedded(self, expr: Embedded) -> str:
        if self.made.parts["input"] is not None or not isinstance(expr.x, Source):
            raise MisfitError(expr.where, "it is not the only table of tokens")
        vocabulary, width = expr.table.shape
        self.made.tensors["embedding.weight"] = expr.table
        self.made.parts["input"] = TokensInput(vocabulary=vocabulary, embedding=width)
        return SOURCE

    def _layers(self, expr: Recurrent) -> str:
        layers, tensors = convert_stack(expr.module, residual=False, norms=())
        if not all(layer.causal for layer in layers):
            raise MisfitError(expr.where, "it reads backwards too, beside other branches")
        name = self._named("layers")
        self._parts.append(LayersPart(name=name, from_=self._sources(expr), layers=layers))
        self.made.tensors |= {
            f"parts.{name}.{key.removeprefix('stack.')}": value for key, value in tensors.items()
        }
        self.made.initial |= {
            f"{name}.{state}": value for state, value in initial_of(expr, 0, layers).items()
        }
        return name

    def _rows(self, expr: Expr) -> str:
        run = self._run(expr)
        name, named = self._named("rows"), rows_of(run)
        parts = self.made.add(f"parts.{name}", named)
        self._parts.append(RowsPart(name=name, from_=self._sources(run[0]), parts=parts))
        return name

    def _joined(self, kind: type[StackPart], expr: Expr) -> str:
        name = self._named(kind.model_fields["kind"].default)
        self._parts.append(kind(name=name, from_=self._sources(expr)))
        return name

    def _named(self, kind: str) -> str:
        return f"{kind}{sum(part.name.startswith(kind) for part in self._parts) + 1}"

    def _sources(self, expr: Expr) -> tuple[str, ...]:
        return tuple(self._names[one] for one in inputs_of(expr))


def _in_order(core: Expr) -> list[Expr]:
    """All expressions that rows are computed from, and the rows last."""
    found: dict[Expr, None] = {}
    waiting: list[tuple[Expr, Sequence[Expr]]] = [(core, inputs_of(core))]
    while waiting:
        expr, inputs = waiting[-1]
        missing = [one for one in inputs if one not in found]
        if missing:
            waiting.append((missing[0], inputs_of(missing[0])))
        else:
            waiting.pop()
            found[expr] = None
    return list(found)
