"""`python -m tests.checks.measures`: how simple the server and the prose are, in numbers.

`--root TREE` measures another checkout, `--before TREE` prints its numbers beside this one's, as Markdown.
Each measure's docstring says what exactly it counts.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .prose import PROSE, of_files
from .rooms import arrows, circles, levels, rooms
from .sizes import MOST_PARAMETERS, constructor_sizes
from .sources import SERVER, Source, sources
from .writers import HOME, writes

TREE = Path(__file__).parents[2]

DECLARING = ("core/", "metrics/", "config.py")
"""Where names of parking are declared: types, limits, ports, metrics and settings."""

_PARKING = re.compile("park", re.IGNORECASE)
_TRIES = re.compile("TRIES")

SESSION_ROOMS = ("sessions", "state", "rows", "residency")
"""Rooms whose files all concern a session; the first two are former ones."""

OTHER_ENGINE_FILES = frozenset(
    [
        *("__init__.py", "buckets.py", "describe.py", "finite.py", "generation.py", "inbox.py"),
        *("philox.py", "prompts.py", "runner.py", "sampler.py", "sampling.py", "scheduler.py"),
        *("sequence_queue.py", "sequences.py", "step_quota.py", "stops.py", "texts.py"),
        *("requests.py", "telling.py"),
    ]
)
"""Files of the engine that do not concern a session's life: computing, sampling, texts, whole sequences."""

OTHER_ROW_FILES = frozenset(["rows/tokens.py"])
"""Files of rows that concern generations only."""

SESSION_FILES = frozenset(
    [
        *("activation.py", "catalog.py", "wire/attach.py", "wire/binding.py", "wire/blocks.py"),
        *("wire/parking.py", "wire/places.py", "wire/stream.py", "wire/triton/sessions.py"),
        *("wire/unary.py",),
    ]
)
"""Files outside of these rooms and of the engine that concern a session; files about seats do too."""


class Measure(NamedTuple):
    """A line of the table: a value, and what it is made of."""

    name: str
    value: str
    details: Sequence[str] = ()


def measure(root: Path) -> Iterator[Measure]:
    """All measures of a tree."""
    code = list(sources(root, SERVER))
    yield from _rooms(root)
    yield _writers(root)
    yield from _constructors(code)
    yield from _parking(code)
    yield from _finding(code)
    yield from _one_step(root, code)
    yield _session_lines(code)
    yield Measure("lines of the server", f"{sum(source.lines for source in code):,}")
    yield from _prose(root)


def _rooms(root: Path) -> Iterator[Measure]:
    found = arrows(root)
    deep = levels(found, rooms(root))
    value = f"{len(rooms(root))} / {deep} / {len(found)}"
    yield Measure(
        "rooms / levels / arrows between rooms", value, [f"{a} → {b}" for a, b in sorted(found)]
    )
    yield Measure(
        "circles of rooms", str(len(circles(found))), [" ".join(c) for c in circles(found)]
    )


def _writers(root: Path) -> Measure:
    """Places that write the session table: modules outside of its home, and its home as one."""
    outside = sorted({str(write.path) for write in writes(root) if not write.at_home})
    return Measure(
        "writers of the session table", str(len(outside) + 1), [*outside, f"{HOME}/ or the table"]
    )


def _constructors(code: Sequence[Source]) -> Iterator[Measure]:
    """Parameters of constructors of the server, self left out."""
    found = [(count, name) for source in code for name, count, _ in constructor_sizes(source.tree)]
    wide = sorted((each for each in found if each[0] > MOST_PARAMETERS), reverse=True)
    yield Measure("largest constructor", str(max(found)[0]), [max(found)[1]])
    yield Measure(
        f"constructors with more than {MOST_PARAMETERS} parameters", str(len(wide)),
        [f"{name} {count}" for count, name in wide],
    )  # fmt: skip


def _parking(code: Sequence[Source]) -> Iterator[Measure]:
    """Files whose code has a name or a text with "park" in it. Comments and docstrings do not count."""
    found = [_below(source) for source in code if any(map(_PARKING.search, _words(source.tree)))]
    declaring = [path for path in found if path.startswith(DECLARING) or path.endswith(DECLARING)]
    yield Measure("server files that know parking", f"{len(found)} of {len(code)}", found)
    acting = [path for path in found if path not in declaring]
    yield Measure(
        "… without core, metrics and settings, which declare it", str(len(acting)), acting
    )


def _finding(code: Sequence[Source]) -> Iterator[Measure]:
    """Files that look a session up by `resume`, and files with a limit of tries.

    `core/` and `link/` do not count: they declare and forward it.
    """
    own = [source for source in code if not _below(source).startswith(("core/", "link/"))]
    finding = [_below(source) for source in own if any(_calls(source.tree, "resume"))]
    yield Measure("files that find a session by its id", str(len(finding)), finding)
    tries = [_below(source) for source in own if any(map(_TRIES.search, _names(source.tree)))]
    yield Measure("files with a rule for trying again", str(len(tries)), tries)


def _one_step(root: Path, code: Sequence[Source]) -> Iterator[Measure]:
    """See `one_step`. Properties and methods such as `__len__` are counted apart."""
    found = [(file, name) for file, name in traced(root)]
    small = {(_below(source), name) for source in code for name in _properties(source)}
    plain = [each for each in found if each not in small and not each[1].endswith("__")]
    yield Measure(
        "files crossed by one step", str(len({file for file, _ in found})),
        sorted({file for file, _ in found}),
    )  # fmt: skip
    yield Measure(
        "functions called by one step, without properties", str(len(plain)),
        [" ".join(each) for each in plain],
    )  # fmt: skip
    yield Measure("… with properties and special methods", str(len(found)))


def traced(root: Path) -> list[tuple[str, str]]:
    """Files and functions of one step, in a process that imports everything from this tree."""
    paths = [str(root / path) for path in ("server", "models", "protos", "client/python")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("one_step.py")
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"a step in {root} could not be traced:\n{done.stderr}")
    return [(file, name) for file, name in json.loads(done.stdout)]


def _session_lines(code: Sequence[Source]) -> Measure:
    """Lines of the files that concern a session's life, from the stream to the store."""
    found = [source for source in code if concerns_a_session(_below(source))]
    lines = sum(source.lines for source in found)
    details = [f"{source.lines} {_below(source)}" for source in found]
    return Measure("lines of the session's files", f"{lines:,} in {len(found)} files", details)


def concerns_a_session(path: str) -> bool:
    """True for files of the rooms of a session, of the engine's verbs and of the doors' seats."""
    room, _, file = path.partition("/")
    if room in SESSION_ROOMS:
        return path not in OTHER_ROW_FILES
    if room == "engine":
        return file not in OTHER_ENGINE_FILES
    return path in SESSION_FILES or Path(path).name.startswith("seat")


def _prose(root: Path) -> Iterator[Measure]:
    """README, ARCHITECTURE and guides: see `prose`."""
    for pattern in PROSE:
        found = of_files(sorted(root.glob(pattern)))
        yield Measure(
            f"{pattern}: words a sentence, sentences with : or ;",
            f"{found.words_a_sentence:.1f}, {found.joined_share:.0%}",
        )


def _below(source: Source) -> str:
    return source.path.relative_to(SERVER).as_posix()


def _properties(source: Source) -> Iterator[str]:
    for name, function in source.functions():
        for decorator in function.decorator_list:
            if "property" in ast.unparse(decorator):
                yield name


def _names(tree: ast.Module) -> Iterator[str]:
    """Every identifier of the code."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def _words(tree: ast.Module) -> Iterator[str]:
    """Every identifier, and every text that is no docstring."""
    yield from _names(tree)
    told = {
        id(node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def _calls(tree: ast.Module, method: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == method
        ):
            yield node


def table(now: Sequence[Measure], before: Sequence[Measure] | None) -> str:
    """The measures as a table in Markdown."""
    if before is None:
        rows = [("measure", "now"), ("---", "---")]
        rows += [(each.name, each.value) for each in now]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    former = {each.name: each.value for each in before}
    lines = ["| measure | before | now |", "| --- | --- | --- |"]
    lines += [f"| {each.name} | {former.get(each.name, '')} | {each.value} |" for each in now]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; with --details, also what each value is made of."""
    parser = argparse.ArgumentParser(prog="python -m tests.checks.measures", description=__doc__)
    parser.add_argument("--root", type=Path, default=TREE, help="the checkout to measure")
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--details", action="store_true", help="list what each value is made of")
    options = parser.parse_args(arguments)
    now = list(measure(options.root.resolve()))
    before = None if options.before is None else list(measure(options.before.resolve()))
    print(table(now, before))
    if options.details:
        for each in now:
            print(f"\n## {each.name}: {each.value}")
            print("\n".join(each.details))


if __name__ == "__main__":
    main()
