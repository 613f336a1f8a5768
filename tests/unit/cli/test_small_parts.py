import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from carousel.cli import printing
from carousel.cli.demo.plain import as_latency, as_rate
from carousel.cli.exits import CliError, did_you_mean
from carousel.cli.options import Options, Output, assignments
from carousel.cli.printing import as_cell, print_record, print_records


def test_a_typo_gets_the_closest_name():
    names = ["pychar-lstm", "pychar-gru", "sunspots-gru"]
    assert did_you_mean("pychar-lsmt", names) == "did you mean 'pychar-lstm'?"


def test_a_wild_name_gets_the_list_and_a_long_list_is_cut():
    assert did_you_mean("zzz", ["b", "a"]) == "choose one of: a, b"
    assert did_you_mean("zzz", [f"m{i:02}" for i in range(20)]).endswith("m07 and 12 more")
    assert did_you_mean("zzz", []) == ""


def test_assignments_split_at_the_first_equals_sign():
    assert assignments(["max-batch=64", "a=b=c", "empty="]) == {
        "max_batch": "64",
        "a": "b=c",
        "empty": "",
    }


@pytest.mark.parametrize("pair", ["novalue", "=3", ""])
def test_an_assignment_without_key_or_value_is_refused(pair):
    with pytest.raises(CliError, match="has no value"):
        assignments([pair])


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "no"),
        (0.123456, "0.1235"),
        (9_999, "9999"),
        (1_234_567, "1,234,567"),
        (["a", "b"], "a b"),
        ("x", "x"),
    ],
)
def test_cells_read_well(value, cell):
    assert as_cell(value) == cell


RECORDS = [{"name": "a", "size": 3, "more": [1]}, {"name": "b", "size": 40_000, "more": []}]


def test_records_as_json_are_whole(capsys):
    print_records(Options(output=Output.JSON), RECORDS, ("name",))
    assert json.loads(capsys.readouterr().out) == RECORDS


def test_records_as_a_table_show_the_columns_with_numbers_to_the_right(capsys):
    print_records(Options(), RECORDS, ("name", "size"))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].split() == ["name", "size"]
    assert lines[-2].endswith("     3")
    assert lines[-1].endswith("40,000")


def test_a_record_is_a_line_a_field_or_an_object(capsys):
    print_record(Options(), {"state_bytes": 12_345})
    assert capsys.readouterr().out.split() == ["state", "bytes", "12,345"]
    print_record(Options(output=Output.JSON), {"state_bytes": 12_345})
    assert json.loads(capsys.readouterr().out) == {"state_bytes": 12_345}


def test_a_narrow_terminal_loses_the_last_columns_and_no_part_of_a_name(capsys, monkeypatch):
    console = Console(highlight=False, width=34, force_terminal=True, color_system=None)
    monkeypatch.setattr(printing, "stdout_console", lambda: console)
    record = {"name": "a-name-of-some-length", "cell": "gru", "description": "so and so"}
    print_records(Options(), [record], ("name", "cell", "description"))
    out, err = capsys.readouterr()
    assert "a-name-of-some-length" in out
    assert "gru" in out
    assert "so and so" not in out
    assert err == "the terminal is too narrow for: description; -o json prints everything\n"


def test_times_are_iso_8601_in_json(capsys):
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    print_record(Options(output=Output.JSON), {"created_at": at, "path": Path("a")})
    record = json.loads(capsys.readouterr().out)
    assert record == {"created_at": "2026-01-02T03:04:05+00:00", "path": "a"}


def test_a_seed_is_no_quantity(capsys):
    print_record(Options(), {"seed": 12_345})
    assert capsys.readouterr().out.split() == ["seed", "12345"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (math.inf, "> 2.5 s"),
        (0.00034, "340 µs"),
        (0.0021, "2.1 ms"),
        (0.25, "250 ms"),
        (1.34, "1.3 s"),
    ],
)
def test_latencies_have_a_fitting_unit(seconds, text):
    assert as_latency(seconds) == text


def test_rates_have_no_false_precision():
    assert (as_rate(1234.56), as_rate(3.44), as_rate(0)) == ("1,235", "3.4", "0.0")
