import json
from typing import Annotated

import pytest
import typer

from carousel.cli.options import (
    DEFAULT_SERVER,
    Options,
    Output,
    command,
    from_environment,
    merged,
    unwrapped,
    wants_json,
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("CAROUSEL_SERVER", raising=False)
    monkeypatch.delenv("CAROUSEL_TOKEN", raising=False)


def run(arguments):
    """Runs a small app whose one command prints what it got."""
    seen = []
    app = typer.Typer()

    @app.callback()
    def root(context: typer.Context, server: str = "") -> None:
        context.obj = merged(from_environment(), server or None, None, None, False)

    @command(app, "show")
    def show(options: Options, name: str, times: Annotated[int, typer.Option(min=1)] = 1) -> None:
        """Help of show."""
        seen.append((options, name, times))

    app(arguments, standalone_mode=False)
    return seen[0]


def test_a_command_gets_its_own_arguments_and_the_options():
    options, name, times = run(["show", "x", "--times", "3"])
    assert (name, times) == ("x", 3)
    assert options == Options()
    assert options.server == DEFAULT_SERVER
    assert not options.server_given


def test_options_stand_before_or_after_the_command_and_the_nearer_one_wins():
    assert run(["--server", "a:1", "show", "x"])[0].server == "a:1"
    assert run(["show", "x", "--server", "b:2"])[0].server == "b:2"
    nearer, *_ = run(["--server", "a:1", "show", "x", "--server", "b:2"])
    assert nearer.server == "b:2"
    assert nearer.server_given


def test_all_of_them_are_taken():
    options, *_ = run(["show", "x", "--token", "t", "-o", "json", "--debug"])
    assert options == Options(token="t", output=Output.JSON, debug=True)


def test_the_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("CAROUSEL_SERVER", "e:9")
    monkeypatch.setenv("CAROUSEL_TOKEN", "secret")
    options, *_ = run(["show", "x"])
    assert (options.server, options.token, options.server_given) == ("e:9", "secret", True)
    assert run(["show", "x", "--server", "b:2"])[0].server == "b:2"


def test_the_outputs_are_the_documented_ones():
    assert json.dumps([str(output) for output in Output]) == '["table", "json"]'


def test_a_command_without_options_first_is_our_bug():
    with pytest.raises(AssertionError, match="is Options"):

        @command(typer.Typer())
        def wrong(name: str) -> None:
            """Wrong."""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("health -o json", True),
        ("-o json health", True),
        ("health -ojson", True),
        ("health --format json", True),
        ("health --format=json", True),
        ("health -o table", False),
        ("health json", False),
        ("health -o", False),
        ("", False),
    ],
)
def test_json_is_seen_in_a_command_line_that_cannot_be_read(line, wanted):
    assert wants_json(line.split()) is wanted


def test_the_lines_of_a_docstring_do_not_break_the_help():
    text = """Says what it is.

        A second paragraph, which goes on
        in another line.
        """
    assert (
        unwrapped(text) == "Says what it is.\n\nA second paragraph, which goes on in another line."
    )
    assert unwrapped("") == ""
