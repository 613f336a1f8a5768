import json

import pytest
import typer

from carousel import _error_bases as bases
from carousel._errors import ModelNotCausalError, SlabFullError
from carousel.cli.exits import CliError, ExitCode, usage_error
from carousel.cli.failures import explained, report
from carousel_models.errors import PackageError


@pytest.mark.parametrize(
    ("error", "code", "cause", "fix"),
    [
        (CliError("c", "f", ExitCode.REFUSED), ExitCode.REFUSED, "c", "f"),
        (usage_error("c", "f"), ExitCode.USAGE, "c", "f"),
        (typer.BadParameter("Wrong it is"), ExitCode.USAGE, "nvalid value: Wrong it is", "--help"),
        (bases.ServerUnreachableError("nobody at h:1"), ExitCode.UNREACHABLE, "nobody at h:1", "health"),
        (bases.ConnectionLostError("broke"), ExitCode.UNREACHABLE, "broke", "client.attach"),
        (bases.ReplyTimeoutError("late"), ExitCode.FAILED, "late", "carousel sessions show"),
        (ModelNotCausalError("both ways"), ExitCode.REFUSED, "(MODEL_NOT_CAUSAL)", "carousel infer"),
        (SlabFullError("full", request_id="r7"), ExitCode.REFUSED, "request r7", "Try again"),
        (PackageError("d: weights are damaged; copy it again"), ExitCode.FAILED, "damaged", "copy it"),
        (OSError("no such port\nchoose another"), ExitCode.FAILED, "no such port", "choose another"),
        (PackageError("one sentence"), ExitCode.FAILED, "one sentence", ""),
        (FileNotFoundError(2, "No such file", "x.csv"), ExitCode.USAGE, "x.csv: No such file", ""),
        (PermissionError(13, "Permission denied", "x"), ExitCode.FAILED, "x: Permission denied", ""),
        (ValueError("port: too high\nuse one below 65536"), ExitCode.USAGE, "port: too high", "below"),
        (ModuleNotFoundError("no", name="torch"), ExitCode.FAILED, "torch", "carousel-serving[server]"),
        (ModuleNotFoundError("no", name="pydantic.v1"), ExitCode.FAILED, "pydantic", "[server]"),
        (ModuleNotFoundError("no", name="matplotlib"), ExitCode.FAILED, "matplotlib", "[zoo]"),
        (ModuleNotFoundError("no own", name="carousel.x"), ExitCode.FAILED, "no own", "--debug"),
        (ZeroDivisionError("by zero"), ExitCode.FAILED, "ZeroDivisionError: by zero", "--debug"),
    ],
)  # fmt: skip
def test_every_error_has_a_cause_a_fix_and_a_code(error, code, cause, fix):
    failure = explained(error)
    assert failure.code == code
    assert cause in failure.cause
    assert fix in failure.fix


def test_a_report_is_two_plain_lines_without_a_terminal(capsys):
    code = report(usage_error("no such thing", "take another"), debug=False)
    assert code == ExitCode.USAGE
    assert capsys.readouterr().err == "carousel: no such thing\n  fix: take another\n"


def test_a_report_for_programs_is_one_json_object(capsys):
    code = report(SlabFullError("full", request_id="r7"), debug=False, as_json=True)
    told = json.loads(capsys.readouterr().err)
    assert told["reason"] == "SLAB_FULL"
    assert told["request_id"] == "r7"
    assert told["exit_code"] == code == ExitCode.REFUSED
    assert "full" in told["error"]
    assert "Try again" in told["fix"]


def test_an_error_without_a_reason_says_null(capsys):
    report(usage_error("no such thing"), debug=False, as_json=True)
    told = json.loads(capsys.readouterr().err)
    assert (told["reason"], told["request_id"], told["fix"]) == (None, None, None)


def test_debug_shows_the_traceback_too(capsys):
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        report(error, debug=True)
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "carousel: unexpected ZeroDivisionError" in err


def test_colour_is_for_terminals_whose_user_wants_it(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    report(usage_error("c"), debug=False)
    assert capsys.readouterr().err == "\x1b[31;1mcarousel:\x1b[0m c\n"
    monkeypatch.setenv("NO_COLOR", "1")
    report(usage_error("c"), debug=False)
    assert capsys.readouterr().err == "carousel: c\n"
