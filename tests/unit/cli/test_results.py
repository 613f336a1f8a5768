import json

import numpy as np
import pytest

from carousel.cli.options import Options, Output
from carousel.cli.results import RowWriter, as_fields, flattened


def written(capsys, rows, form=Output.TABLE, labels=()):
    writer = RowWriter(Options(output=form), labels)
    for row in rows:
        writer.write(row)
    return capsys.readouterr().out.splitlines()


def test_csv_names_each_number_and_counts_the_steps(capsys):
    rows = np.array([[1.5, 2], [3, 4.25]], np.float32)
    assert written(capsys, rows) == ["seq,y_0,y_1", "1,1.5,2", "2,3,4.25"]


def test_a_single_number_needs_no_index(capsys):
    assert written(capsys, np.array([[0.5]], np.float32)) == ["seq,y", "1,0.5"]


def test_json_lines_hold_the_row_by_field(capsys):
    dtype = np.dtype([("values", "<f4", (2,)), ("indices", "<i4", (2,))])
    row = np.zeros(1, dtype)[0]
    row["values"], row["indices"] = (0.75, 0.25), (3, 1)
    (line,) = written(capsys, [row], Output.JSON)
    assert json.loads(line) == {"seq": 1, "values": [0.75, 0.25], "indices": [3, 1]}


def test_a_class_index_is_shown_with_its_name(capsys):
    rows = np.array([1, 0], np.int32)
    assert written(capsys, rows, labels=("no", "yes")) == ["seq,index,label", "1,1,yes", "2,0,no"]
    (first, _) = written(capsys, rows, Output.JSON, ("no", "yes"))
    assert json.loads(first) == {"seq": 1, "index": 1, "label": "yes"}


def test_what_json_cannot_say_becomes_null(capsys):
    (line,) = written(capsys, np.array([[np.nan, np.inf, 1]], np.float32), Output.JSON)
    assert json.loads(line) == {"seq": 1, "y": [None, None, 1.0]}


@pytest.mark.parametrize(
    ("value", "pairs"),
    [(3, [("f", 3)]), ([[1, 2], [3, 4]], [("f_0_0", 1), ("f_0_1", 2), ("f_1_0", 3), ("f_1_1", 4)])],
)
def test_fields_flatten_by_place(value, pairs):
    assert flattened("f", value) == pairs


def test_rows_without_fields_are_y_or_an_index():
    assert as_fields(np.float32([1, 2])) == {"y": [1, 2]}
    assert as_fields(np.int32(4)) == {"index": 4}


def test_parts_of_csv_have_an_empty_line_between(capsys):
    for form, lines in (
        (Output.TABLE, ["seq,y", "1,1", "2,2", "", "3,3"]),
        (Output.JSON, [f'{{"seq": {i}, "y": [{i}.0]}}' for i in (1, 2, 3)]),
    ):
        writer = RowWriter(Options(output=form))
        for rows in (0, 2, 2, 3):
            writer.part_after(rows)
        for value in (1.0, 2.0, 3.0):
            writer.write(np.array([value], np.float32))
        assert capsys.readouterr().out.splitlines() == lines
