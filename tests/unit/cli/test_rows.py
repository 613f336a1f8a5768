import io
import os

import pytest

from carousel.cli.exits import CliError, ExitCode
from carousel.cli.rows import opened, parsed


def test_rows_are_numbers_and_a_header_is_passed_over():
    assert list(parsed(["year,value\n", "1,2.5\n", "\n", "3,-4e2\n"], 2)) == [[1, 2.5], [3, -400]]


def test_a_first_row_of_numbers_is_no_header():
    assert list(parsed(["1\n", "2\n"], 1)) == [[1], [2]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_makes_no_header_of_the_first_row(end, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(f"\ufeff1{end}2{end}".encode())
    with opened(str(path)) as lines:
        assert list(parsed(lines, 1)) == [[1], [2]]


def test_semicolons_between_cells_are_pointed_at():
    with pytest.raises(CliError, match="'3;4' is no number") as caught:
        list(parsed(["a;b\n", "3;4\n"], 1))
    assert "commas" in caught.value.fix


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(CliError, match=r"rows.csv is not UTF-8"), opened(str(path)) as lines:
        list(parsed(lines, 1))


def test_nan_is_left_to_the_server_to_refuse():
    (row,) = parsed(["nan\n"], 1)
    assert row[0] != row[0]


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["1,2\n", "3\n"], "line 2 has 1 cell, the model's row has 2"),
        (["1,2,3\n"], "line 1 has 3 cells"),
        (["1,2\n", "3,four\n"], "line 2: 'four' is no number"),
        (["1,x\n"], "line 1: 'x' is no number"),
        ([], "no row of numbers"),
        (["year,value\n"], "no row of numbers"),
    ],
)
def test_a_bad_line_is_named(lines, cause):
    with pytest.raises(CliError) as caught:
        list(parsed(lines, 2))
    assert cause in caught.value.cause
    assert caught.value.fix
    assert caught.value.code == ExitCode.USAGE


def test_a_row_is_there_before_the_next_line_is_written():
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as source, os.fdopen(writing, "w") as sink:
        rows = parsed(source, 1)
        for value in (1.0, 2.0):
            sink.write(f"{value}\n")
            sink.flush()
            assert next(rows) == [value]


def test_a_file_is_opened_and_a_missing_one_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("1\n2\n")
    with opened(str(path)) as lines:
        assert list(parsed(lines, 1)) == [[1], [2]]
    with pytest.raises(CliError, match="there is no file"), opened(str(tmp_path / "absent.csv")):
        pass


def test_a_dash_is_stdin(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("7\n"))
    with opened("-") as lines:
        assert list(parsed(lines, 1)) == [[7]]
