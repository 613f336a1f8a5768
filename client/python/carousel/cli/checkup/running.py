"""Checks a running server: its health, its version, and its clock."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from carousel._version import __version__
from carousel.cli.commands.health import states
from carousel.cli.exits import CliError
from carousel.cli.failures import explained
from carousel.cli.options import Options, resolved

from .findings import Finding, Level

CLOCK_S = 2.0
"""Difference of clocks that is shown as a warning. HTTP tells whole seconds."""
_TIMEOUT_S = 5.0
_BUILD = re.compile(r'carousel_build_info\{[^}]*\bversion="([^"]*)"')


def running(options: Options, metrics: str) -> Iterator[Finding]:
    """The server of the options, and its /metrics at an address."""
    yield from _health(options)
    yield from _metrics(metrics)


def _health(options: Options) -> Iterator[Finding]:
    options = resolved(options)
    try:
        found = states(options)
    except Exception as error:  # noqa: BLE001 - each becomes a line, as at the end of any command
        failure = error if isinstance(error, CliError) else explained(error)
        yield Finding("server", Level.PROBLEM, failure.cause, failure.fix)
        return
    for record in found:
        name, health = record["model"], record["health"]
        check = (
            "server" if name == "(server)" else "its store" if name == "(store)" else "its model"
        )
        what = f"{options.server} is {health}" if check == "server" else f"{name} is {health}"
        if health == "serving":
            yield Finding(check, Level.OK, what)
        else:
            yield Finding(check, Level.PROBLEM, what, "see the server's log")


def _metrics(address: str) -> Iterator[Finding]:
    """Version and clock, which the server tells by HTTP only."""
    before_s = time.time()
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as page:
            date, text = page.headers["Date"], page.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        why = f"version and clock are not known: no metrics at {address} ({error})"
        yield Finding("its metrics", Level.SKIPPED, why, "name their address: --metrics HOST:PORT")
        return
    middle_s = (before_s + time.time()) / 2
    found = _BUILD.search(text)
    yield version_of(found[1] if found else "")
    if date:
        # The server has cut the second's fraction off.
        yield clock(parsedate_to_datetime(date).timestamp() + 0.5 - middle_s)


def version_of(theirs: str) -> Finding:
    """The server's version beside that of this command."""
    if not theirs:
        why = "not told: this is no server of Carousel"
        return Finding(
            "its version", Level.WARNING, why, "name another address: --metrics HOST:PORT"
        )
    if theirs == __version__:
        return Finding("its version", Level.OK, f"{theirs}, as here")
    fix = "update the older one"
    return Finding("its version", Level.WARNING, f"{theirs}, and {__version__} here", fix)


def clock(off_s: float) -> Finding:
    """The server's clock against this machine's."""
    if abs(off_s) < CLOCK_S:
        return Finding("its clock", Level.OK, "within two seconds of this machine's")
    fix = "set both clocks by NTP"
    return Finding("its clock", Level.WARNING, f"{off_s:+.0f} s against this machine's", fix)
