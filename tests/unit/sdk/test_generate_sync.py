"""The blocking client is what the generator makes of the asyncio client."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from .scripts import script


@pytest.fixture
def generator() -> ModuleType:
    return script("generate_sync")


def sources(generator: ModuleType) -> str:
    return "".join(
        (generator.PACKAGE / "_async" / f"{name}.py").read_text(encoding="utf-8")
        for name in generator.MODULES
    )


def test_the_committed_modules_are_made_from_the_asyncio_client(generator: ModuleType) -> None:
    assert generator.main(["--check"]) == 0


def test_every_rule_is_needed(generator: ModuleType) -> None:
    source = sources(generator)
    for phrase, other in generator.PHRASES:
        assert phrase in source, phrase
        source = source.replace(phrase, other)
    for pattern, _ in generator.PATTERNS:
        assert re.search(pattern, source), pattern


def test_nothing_asynchronous_is_left(generator: ModuleType) -> None:
    for name in generator.MODULES:
        made = (generator.PACKAGE / "_sync" / f"{name}.py").read_text(encoding="utf-8")
        first, _, rest = made.partition("\n")
        assert first == f"# Made by generate_sync.py from _async/{name}.py: do not edit."
        assert not re.search(r"[Aa]sync|await|event loop|\btasks?\b|\bOpening\b", rest), name


def test_both_folders_have_the_same_modules_and_names(generator: ModuleType) -> None:
    """What a generated module imports from one written by hand is there on both sides."""

    def imports(folder: str) -> set[tuple[str, str]]:
        found = set()
        for name in generator.MODULES:
            text = (generator.PACKAGE / folder / f"{name}.py").read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.level == 1:
                    found |= {(node.module or "", alias.name) for alias in node.names}
        return {(module, name.removeprefix("Async")) for module, name in found}

    assert imports("_sync") == imports("_async") - {("opening", "Opening")}
    files = [{f.name for f in (generator.PACKAGE / at).glob("*.py")} for at in ("_async", "_sync")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("async def f(x: int) -> int:\n    return await g(x)", "def f(x: int) -> int:\n    return g(x)"),
        ("async with a as b, c:", "with a as b, c:"),
        ("[x async for x in y]", "[x for x in y]"),
        ("f: Callable[[float], Awaitable[T]]", "f: Callable[[float], T]"),
        ("f: Callable[[], Coroutine[Any, Any, AsyncSession]]", "f: Callable[[], Session]"),
        ("AsyncIterator[AsyncSession]", "Iterator[Session]"),
        ("async def __aenter__(self)", "def __enter__(self)"),
        ("return await anext(self._tokens)", "return next(self._tokens)"),
        ("for token in fresh:\n    yield token\n", "yield from fresh\n"),
        ("for page in pages:\n    yield page.name\n", "for page in pages:\n    yield page.name\n"),
        ("by `aclose`, by its `async with` block", "by `close`, by its `with` block"),
        ("AsyncIO and awaited", "IO and awaited"),
    ],
)  # fmt: skip
def test_how_source_is_rewritten(generator: ModuleType, source: str, made: str) -> None:
    assert generator.blocking(source) == made


def test_unused_imports_and_long_lines_are_mended(generator: ModuleType) -> None:
    source = "import asyncio\nimport abc\nx = abc.ABC,\n"
    assert generator.formatted(source, Path("made.py")) == "import abc\n\nx = (abc.ABC,)\n"


def test_a_syntax_error_is_named(generator: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"made\.py"):
        generator.formatted("def f(:\n", Path("made.py"))


def test_a_check_names_what_is_out_of_date_and_writes_nothing(
    generator: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("_async", "_sync"):
        shutil.copytree(generator.PACKAGE / folder, tmp_path / folder)
    generator.PACKAGE = tmp_path
    path = tmp_path / "_sync" / "batch.py"
    path.write_text(path.read_text(encoding="utf-8") + "# by hand\n", encoding="utf-8")
    assert generator.main(["--check"]) == 1
    assert "out of date: _sync/batch.py;" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8").endswith("# by hand\n")
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
