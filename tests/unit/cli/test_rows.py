import io
import os

import pytest

from carousel.cli.exits import CliError, ExitCode
from carousel.cli.rows import inputs, opened, parsed
from carousel.types import ModelInfo, TensorInfo


def rows(lines, width):
    return [row for _, row in parsed(lines, width)]


def model(dtype, *shape, vocabulary=0):
    fields = dict.fromkeys(ModelInfo.__dataclass_fields__)
    return ModelInfo(**fields | {"input": TensorInfo("x", dtype, shape), "vocabulary": vocabulary})


def test_rows_are_numbers_and_a_header_is_passed_over():
    assert rows(["year,value\n", "1,2.5\n", "\n", "3,-4e2\n"], 2) == [[1, 2.5], [3, -400]]


def test_a_first_row_of_numbers_is_no_header():
    assert rows(["1\n", "2\n"], 1) == [[1], [2]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_makes_no_header_of_the_first_row(end, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(f"\ufeff1{end}2{end}".encode())
    with opened(str(path)) as lines:
        assert rows(lines, 1) == [[1], [2]]


def test_semicolons_between_cells_are_pointed_at():
    with pytest.raises(CliError, match="'3;4' is not a number") as caught:
        rows(["a;b\n", "3;4\n"], 1)
    assert "commas" in caught.value.fix


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(CliError, match=r"rows.csv is not UTF-8"), opened(str(path)) as lines:
        rows(lines, 1)


def test_rows_before_bytes_that_are_not_text_are_there(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"1\n2\n\xe9\n4\n")
    with opened(str(path)) as lines:
        found = parsed(lines, 1)
        assert [next(found), next(found)] == [(1, [1.0]), (2, [2.0])]
        with pytest.raises(CliError, match=r"rows.csv is not UTF-8 text in line 3"):
            next(found)


def test_lines_are_counted_as_an_editor_counts_them():
    header = ['"time\n', '(s)",value\n']
    with pytest.raises(CliError, match="line 4: 'x' is not a number"):
        rows([*header, "1,2\n", "1,x\n"], 2)


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-inf", "1e999"])
def test_what_is_not_finite_is_told_by_line(cell):
    with pytest.raises(CliError, match=f"line 2: '{cell}' is not a finite number") as caught:
        rows(["1\n", f"{cell}\n"], 1)
    assert (caught.value.code, bool(caught.value.fix)) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("made", "line", "cause"),
    [
        (model("<f4", 1), "1e39", "line 3: 1e[+]39 is too large for a float32"),
        (model("<i4", vocabulary=9), "1.5", "line 3: 1.5 is not a token id"),
        (model("<i4", vocabulary=9), "9", "line 3: 9 is not a token of the model"),
        (model("<i4", vocabulary=9), "-1", "line 3: -1 is not a token of the model"),
        (model("<i4", vocabulary=9), "1e300", "line 3: 1000.* is not a token of the model"),
    ],
)
def test_what_the_models_row_cannot_hold_is_told_by_line(made, line, cause):
    source = inputs(["1\n", "2\n", f"{line}\n", "3\n"], made)
    assert [next(source).tolist() for _ in range(2)] in ([[1.0], [2.0]], [1, 2])
    with pytest.raises(CliError, match=cause) as caught:
        next(source)
    assert (caught.value.code, bool(caught.value.fix)) == (ExitCode.USAGE, True)


def test_inputs_have_the_models_shape_and_type():
    (row,) = inputs(["1,2,3,4\n"], model("<f4", 2, 2))
    assert (row.tolist(), row.dtype) == ([[1, 2], [3, 4]], "<f4")
    (token,) = inputs(["7\n"], model("<i4", vocabulary=8))
    assert (token.shape, token.dtype, int(token)) == ((), "<i4", 7)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["1,2\n", "3\n"], "line 2 has 1 cell, the model's row has 2"),
        (["1,2,3\n"], "line 1 has 3 cells"),
        (["1,2\n", "3,four\n"], "line 2: 'four' is not a number"),
        (["1,x\n"], "line 1: 'x' is not a number"),
        (["1,2\n", "3\r4,5\n"], "line 2 is not CSV: new-line character"),
        (["1,2\n", '3,"4\n', *["5,6\n"] * 40_000], "line 2 is not CSV: field larger than"),
        ([], "no row of numbers"),
        (["year,value\n"], "no row of numbers"),
    ],
)
def test_a_bad_line_is_named(lines, cause):
    with pytest.raises(CliError) as caught:
        rows(lines, 2)
    assert cause in caught.value.cause
    assert caught.value.fix
    assert caught.value.code == ExitCode.USAGE


def test_a_row_is_there_before_the_next_line_is_written():
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as source, os.fdopen(writing, "w") as sink:
        lines = parsed(source, 1)
        for value in (1.0, 2.0):
            sink.write(f"{value}\n")
            sink.flush()
            assert next(lines)[1] == [value]


def test_a_file_is_opened_and_a_missing_one_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("1\n2\n")
    with opened(str(path)) as lines:
        assert rows(lines, 1) == [[1], [2]]
    with pytest.raises(CliError, match="there is no file"), opened(str(tmp_path / "absent.csv")):
        pass


def test_a_named_pipe_is_opened_and_a_folder_is_named(tmp_path):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as sink:
        sink.write("1\n2\n")
    try:
        with opened(f"/dev/fd/{reading}") as lines:
            assert rows(lines, 1) == [[1], [2]]
    finally:
        os.close(reading)
    with pytest.raises(CliError, match="is a folder"), opened(str(tmp_path)):
        pass


def test_a_dash_is_stdin(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("7\n"))
    with opened("-") as lines:
        assert rows(lines, 1) == [[7]]


def test_an_empty_line_is_told_with_the_number_of_rows_before_it():
    lines = ["\n", "x\n", "1\n", "2\n", "\n", "\n", "3\n", "\n"]
    blanks = []
    assert [row for _, row in parsed(lines[2:], 1, blanks.append)] == [[1], [2], [3]]
    assert blanks == [2, 2, 3]
    lazily = parsed(["1\n", "\n", "2\n"], 1, blanks.append)
    blanks.clear()
    assert next(lazily)[1] == [1]
    assert blanks == []  # it is told when the next row is asked for, and before that comes
    assert next(lazily)[1] == [2]
    assert blanks == [1]
