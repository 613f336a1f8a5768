"""What the command prints of others' texts: a terminal obeys none of it."""

from __future__ import annotations

import sys

import pytest

from carousel.cli.commands.generate import emit
from carousel.cli.exits import CliError
from carousel.cli.failures import report
from carousel.cli.options import Options, Output
from carousel.cli.printing import as_cell, note, print_line, print_records, printable
from carousel.cli.results import RowWriter

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 世界 👩‍💻 é", "Grüße, 世界 👩‍💻 é"),
        (ESCAPE, SHOWN),
        ("\x9b31m", "\\x9b31m"),
        ("safe\u202etxt.exe", "safe\\u202etxt.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("a\rb\tc\x00", "a\\rb\\tc\\x00"),
        ("two\nlines", "two\nlines"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_cell_is_one_line() -> None:
    assert as_cell("two\nlines") == "two lines"
    assert as_cell(["a", ESCAPE]) == f"a {SHOWN}"


def test_tables_lines_and_notes_obey(capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(output=Output.TABLE)
    print_records(options, [{"name": "m", "description": ESCAPE}], ("name", "description"))
    print_line(f"closed {ESCAPE}")
    note(ESCAPE)
    report(CliError(f"no model {ESCAPE}", f"try {ESCAPE}"), debug=False)
    out, err = capsys.readouterr()
    assert "\x1b]0" not in out + err
    assert "\x1b[2J" not in out + err
    assert SHOWN in "".join(out.split("\n")[-2:])
    assert err.count(SHOWN) == 3


def test_square_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(output=Output.TABLE)
    print_records(
        options, [{"name": "[red]m[/x]", "description": ":smile:"}], ("name", "description")
    )
    out, _ = capsys.readouterr()
    assert "[red]m[/x]" in out
    assert ":smile:" in out


def test_labels_of_rows_stay_in_their_cell(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    RowWriter(Options(output=Output.TABLE), ["a\n2,9,forged"]).write(np.int64(0))
    out, _ = capsys.readouterr()
    assert out.splitlines() == ["seq,index,label", "1,0,a\\n2,9,forged"]


@pytest.mark.parametrize("terminal", [True, False])
def test_generated_text_reaches_a_pipe_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    emit(f"x\n\t{ESCAPE}")
    assert capsys.readouterr().out == f"x\n\t{SHOWN if terminal else ESCAPE}"
