"""The measures of a small tree, whose numbers are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks import measures
from tests.checks.measures import TREE, Measure, concerns_a_session, measure, table, traced
from tests.checks.prose import Prose, of_files, sentences
from tests.checks.rooms import arrows, circles, levels, rooms

from .conftest import Write

SERVER = "server/carousel_server"


@pytest.fixture
def values(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Measure]:
    """The measures of a tree with a bit of everything; its step is not traced."""
    write(f"{SERVER}/core/types.py", "PARKED = 1\ndef resume(): pass\n")
    write(f"{SERVER}/wire/attach.py", "import carousel_server.core.types\ncatalog.resume(1)\n")
    write(f"{SERVER}/wire/quiet.py", '"""Tells of parking."""\n# parked\nMOST_TRIES = 3\n')
    write(f"{SERVER}/wire/said.py", 'reason = "SESSION_PARKED"\n')
    write(
        f"{SERVER}/engine/step.py", "class Wide:\n    def __init__(self, a, b, c, d, e, f, g): 1\n"
    )
    write(f"{SERVER}/engine/second.py", "def f(table):\n    table.ack[1] = 2\n")
    write(f"{SERVER}/engine/philox.py", "x = 1\n" * 50)
    write(f"{SERVER}/engine/size.py", "class A:\n    @property\n    def size(self): return 1\n")
    write("README.md", "One two three. Four: five six; seven.\n")
    crossed = [
        ("engine/size.py", "A.size"),
        ("engine/size.py", "A.__len__"),
        ("wire/attach.py", "f"),
    ]
    monkeypatch.setattr(measures, "traced", lambda root: crossed)
    return {each.name: each for each in measure(tmp_path)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rooms / levels / arrows between rooms", "3 / 1 / 0"),
        ("writers of the session table", "2"),
        ("largest constructor", "7"),
        ("constructors with more than 6 parameters", "1"),
        ("server files that know parking", "2 of 13"),
        ("… without core, metrics and settings, which declare it", "1"),
        ("files that find a session by its id", "1"),
        ("files with a rule for trying again", "1"),
        ("files crossed by one step", "2"),
        ("functions called by one step, without properties", "1"),
        ("… with properties and special methods", "3"),
        ("lines of the session's files", "20 in 6 files"),
        ("README.md: words a sentence, sentences with : or ;", "3.5, 50%"),
    ],
)
def test_a_measure(values: dict[str, Measure], name: str, value: str) -> None:
    assert values[name].value == value, values[name].details


def test_the_details_say_what_was_counted(values: dict[str, Measure]) -> None:
    assert values["largest constructor"].details == ["Wide"]
    assert values["server files that know parking"].details == ["core/types.py", "wire/said.py"]
    assert f"{SERVER}/engine/second.py" in values["writers of the session table"].details


@pytest.mark.parametrize(
    ("path", "concerns"),
    [
        ("rows/table.py", True),
        ("sessions/table.py", True),
        ("rows/tokens.py", False),
        ("residency/catalog.py", True),
        ("engine/control.py", True),
        ("engine/anything_new.py", True),
        ("engine/sampler.py", False),
        ("wire/seats.py", True),
        ("wire/triton/sessions.py", True),
        ("wire/outbox.py", False),
        ("store/sqlite.py", False),
    ],
)
def test_which_files_concern_a_session(path: str, concerns: bool) -> None:
    assert concerns_a_session(path) is concerns


def test_rooms_and_arrows(write: Write, tmp_path: Path) -> None:
    write(
        f"{SERVER}/main.py", "from carousel_server import engine\nimport carousel_server.rows.a\n"
    )
    write(f"{SERVER}/engine/a.py", "def f():\n    from ..rows import table\nfrom .b import c\n")
    write(f"{SERVER}/rows/b.py", "from . import table\nimport os, carousel_models.rows\n")
    assert rooms(tmp_path) == ["engine", "main", "rows"]
    found = arrows(tmp_path)
    assert found == {("main", "engine"), ("main", "rows"), ("engine", "rows")}
    assert (levels(found, rooms(tmp_path)), circles(found)) == (3, [])
    write(f"{SERVER}/rows/c.py", "import carousel_server.engine.a\n")
    found = arrows(tmp_path)
    assert (levels(found, rooms(tmp_path)), circles(found)) == (2, [["engine", "rows"]])


def test_sentences_of_markdown() -> None:
    text = """# A heading: not counted; never.

The first sentence
goes over two lines. The second has `code; with: joints` and [a link](https://x.y/z?a;b).

| a table: | no; |
|---|---|

- An entry of a list
  that goes on.
- Another: one?
1. A third; no end

> A quote (e.g. this one) counts. "Yes!" she says.

```
code: is; left. Out.
```
![A picture: no](a.png)
"""
    assert list(sentences(text)) == [
        "The first sentence goes over two lines.",
        "The second has code and a link.",
        "An entry of a list that goes on.",
        "Another: one?",
        "A third; no end",
        "A quote (e.g. this one) counts.",
        '"Yes!" she says.',
    ]


def test_words_and_joints(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("One two – three. At 12:30 it ends. One: two; three.\n")
    found = of_files([file])
    assert found == Prose(sentences=3, words=10, joined=1)
    assert round(found.words_a_sentence, 2) == 3.33
    assert found.is_plain is False
    assert Prose(4, 56, 1).is_plain is True
    assert Prose(4, 57, 1).is_plain is False
    assert Prose(0, 0, 0).is_plain is True


def test_the_table_compares_two_trees() -> None:
    now = [Measure("files", "3"), Measure("new", "5")]
    before = [Measure("files", "9"), Measure("gone", "1")]
    assert table(now, None).splitlines()[2:] == ["| files | 3 |", "| new | 5 |"]
    assert table(now, before).splitlines()[2:] == ["| files | 9 | 3 |", "| new |  | 5 |"]


def test_a_step_goes_from_the_wire_to_the_engine_and_back() -> None:
    found = traced(TREE)
    assert found == sorted(set(found))
    crossed = {file.partition("/")[0] for file, _ in found}
    assert crossed >= {"wire", "engine", "rows"}
    assert ("engine/engine.py", "Engine.tick") in found
    assert not any(name.split(".")[-1].startswith("<") for _, name in found)


def test_a_tree_that_cannot_be_traced_says_why(tmp_path: Path) -> None:
    (tmp_path / "server" / "carousel_server").mkdir(parents=True)
    (tmp_path / "server" / "carousel_server" / "__init__.py").write_text("1 / 0\n")
    with pytest.raises(RuntimeError, match=r"(?s)could not be traced.*ZeroDivisionError"):
        traced(tmp_path)


def test_the_command_prints_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(measures, "measure", lambda root: [Measure("files", root.name, ["a.py"])])
    measures.main(["--root", str(tmp_path / "b"), "--before", str(tmp_path / "a"), "--details"])
    said = capsys.readouterr().out
    assert "| files | a | b |" in said
    assert said.endswith("## files: b\na.py\n")
