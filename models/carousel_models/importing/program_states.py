"""Finds which inputs of a step graph are states, which one is the row, and what comes out of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from carousel_models.errors import PackageError
from carousel_models.programs import Port

from .program_options import listed

_ENTERS = re.compile(
    r"^(in|input|prev|previous|past|old|initial|init)_|_(in|input|prev|old|init|0)$|(?<=[a-z])0$"
)
_LEAVES = re.compile(
    r"^(out|output|new|next|present|updated|y)_|_(out|output|new|next|n|1)$|(?<=[a-z])(n|1)$"
)
_ROWS = (
    "x",
    "input",
    "inputs",
    "row",
    "frame",
    "features",
    "audio",
    "samples",
    "chunk",
    "tokens",
    "token",
)
_RESULTS = ("y", "output", "outputs", "logits", "probs", "prob", "result")


class Roles(NamedTuple):
    """What the ports of a step graph are.

    Attributes:
        input: the input that takes the row.
        output: the output that gives the row.
        states: outputs by the inputs whose next value they are.
        unused: outputs that nothing reads.
    """

    input: str
    output: str
    states: dict[str, str]
    unused: tuple[str, ...]


def pair_by_name(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, str]:
    """Outputs by inputs whose names say that they are one state: h and hn, state and stateN, c_in and c_out.

    Names that fit several are left out.
    """
    fitting: dict[str, list[str]] = {}
    for enter, leave in product(inputs, outputs):
        same_type = not enter.dtype or not leave.dtype or enter.dtype == leave.dtype
        if same_type and _stems(enter.name, _ENTERS) & _stems(leave.name, _LEAVES):
            fitting.setdefault(enter.name, []).append(leave.name)
    single = {enter: leaves[0] for enter, leaves in fitting.items() if len(leaves) == 1}
    taken = list(single.values())
    return {enter: leave for enter, leave in single.items() if taken.count(leave) == 1}


def find_roles(
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    states: Mapping[str, str],
    said: tuple[Port | None, Port | None],
    where: str,
) -> Roles:
    """The roles of all ports.

    Args:
        inputs: all but the constants, with their dimensions.
        outputs: with the dimensions that a run has given them.
        states: pairs that were said, or found by name.
        said: the input and the output of the row, as far as they were said.
        where: the file, for errors.

    Raises:
        PackageError: there is no solution, or more than one. It lists the candidates.
    """
    entering = [port for port in inputs if port.name not in states]
    leaving = [port for port in outputs if port.name not in states.values()]
    found = []
    for x, y in product(_rows(entering, said[0], _ROWS), _rows(leaving, said[1], _RESULTS)):
        pairs = _pair_by_shape(
            [port for port in entering if port is not x],
            [port for port in leaving if port is not y],
        )
        if pairs is not None:
            found.append((x.name, y.name, {**states, **pairs}))
    if len(found) != 1:
        raise PackageError(_explain(entering, leaving, states, len(found), where))
    ((x_name, y_name, pairs),) = found
    used = {y_name, *pairs.values()}
    order = [port.name for port in inputs if port.name in pairs]
    return Roles(
        x_name,
        y_name,
        {name: pairs[name] for name in order},
        tuple(port.name for port in outputs if port.name not in used),
    )


def _stems(name: str, affixes: re.Pattern[str]) -> set[str]:
    """What remains of a name without the words that say "before" or "after", and the name itself."""
    plain = re.sub(r"(?<=[a-z])N$", "_n", name).lower()
    return (
        {plain, affixes.sub("", plain)} - {""} if affixes is _LEAVES else {affixes.sub("", plain)}
    )


def _rows(ports: Sequence[Port], said: Port | None, usual: Sequence[str]) -> Sequence[Port]:
    """The candidates for the row: the one that was said, the one with a usual name, or all."""
    if said is not None:
        return [port for port in ports if port.name == said.name]
    named = [port for port in ports if port.name.lower() in usual]
    return named if len(named) == 1 else ports


def _pair_by_shape(entering: Sequence[Port], leaving: Sequence[Port]) -> dict[str, str] | None:
    """Pairs of equal types and dimensions, if each input has exactly one. None otherwise."""
    pairs = {}
    for port in entering:
        if port.scalar:
            return None
        alike = [other for other in leaving if _alike(port, other)]
        rivals = [other for other in entering if _alike(port, other)]
        if len(alike) != 1 or len(rivals) != 1:
            return None
        pairs[port.name] = alike[0].name
    return pairs


def _alike(one: Port, other: Port) -> bool:
    return one.dtype == other.dtype and one.dims == other.dims


def _explain(
    entering: Sequence[Port],
    leaving: Sequence[Port],
    states: Mapping[str, str],
    solutions: int,
    where: str,
) -> str:
    known = f". Found already: {', '.join(f'{a}:{b}' for a, b in states.items())}" if states else ""
    lists = f". Inputs left: {listed(entering)}. Outputs left: {listed(leaving)}{known}"
    if not entering or not leaving:
        return (
            f"{where} has no {'input' if not entering else 'output'} left for the row of a step, as all of "
            f"them are states{lists}; say which one it is with --input or --output"
        )
    lonely = [
        port.name
        for port in entering
        if port.scalar or not any(_alike(port, other) for other in leaving)
    ]
    if not solutions and len(lonely) > 1:
        return (
            f"{where}: of the inputs {', '.join(lonely)} only one can be the row of a step, and the "
            f"others have no output of their type and shape{lists}; give --constant NAME=NUMBER for each "
            "that is always the same, or --state IN:OUT"
        )
    return (
        f"{where}: it is not clear which inputs are states, and which outputs are their next "
        f"values{lists}; say --input NAME and --output NAME for the row of a step, or --state IN:OUT for "
        "each state"
    )
