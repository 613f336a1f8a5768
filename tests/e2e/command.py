"""The command, run as people run it: in this process where that is the same, else in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from unittest import mock

from support.signals import handlers_kept

from carousel.cli import main


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def environment(**extra: str) -> dict[str, str]:
    """Ours, without settings of the caller's shell. TEST_TRANSPORT chooses the transport of servers."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")}
    if transport := os.environ.get("TEST_TRANSPORT"):
        clean["CAROUSEL_TRANSPORT"] = transport
    return {**clean, "OMP_NUM_THREADS": "1", **extra}


def carousel(*arguments: str, stdin: str = "", **extra: str) -> Done:
    """Runs a command line in this process, with a file as stdin; `extra` are variables."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        source.write(stdin)
        source.seek(0)
        stack.enter_context(mock.patch.object(sys, "stdin", source))
        stack.enter_context(mock.patch.dict(os.environ, environment(**extra), clear=True))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(handlers_kept())
        code = main.run(list(arguments))
    return Done(code, out.getvalue(), err.getvalue())


def started(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Starts the command with pipes, in a process group of its own; `variables` join its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "carousel.cli.main", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment() | variables, start_new_session=True,
    )  # fmt: skip
