"""Checks what commonly goes wrong with a server, and says the fix. For `carousel doctor`.

Nothing is changed: no file is written, no kernel is compiled, and no key of the store is touched. A port is
bound for a moment, and packages are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator

from carousel_server.store import StoreError, look_at_store
from carousel_server.wire import ListenError, check_address

from .access import access
from .config import ConfigError, Settings
from .findings import Finding, Level, halves, problem, unless, well
from .listeners import listener
from .machine import machine
from .rehearsal import listening, models
from .replicas import planned


def diagnose(settings: Settings) -> Iterator[Finding]:
    """Runs all checks of this machine, in the order in which they are shown."""
    prepared = yield from machine(settings)
    try:
        plan = planned(settings)
    except ConfigError as error:
        yield problem("replicas", error)
        plan = [settings]
    for one in plan:
        yield from _ports(one)
    yield from access(settings)
    yield from _store(settings)
    # Without a compiled kernel, the packages are checked by the reference kernel.
    yield from _models(
        settings if prepared else settings.model_copy(update={"kernel": "reference"})
    )


def _ports(settings: Settings) -> Iterator[Finding]:
    for name, host, port, flag in listening(settings):
        check = name.replace("_", " ")
        try:
            check_address(host, port, flag)
        except ListenError as error:
            yield _taken(check, port, error)
        else:
            yield well(check, f"{host}:{port} is free" if port else f"{host}, a free one")


def _taken(check: str, port: int, error: ListenError) -> Finding:
    cause, fix = halves(error)
    user = listener(port)
    if user is None:
        return Finding(check, Level.PROBLEM, cause, fix)
    if user.is_carousel:
        fix = f"to start another server, choose another {check}"
        return Finding(check, Level.WARNING, f"{port} has a server of Carousel: {user}", fix)
    fix = f"stop process {user.pid}, or choose another {check}"
    return Finding(check, Level.PROBLEM, f"{cause}, by {user}", fix)


def _store(settings: Settings) -> Iterator[Finding]:
    if not settings.store:
        yield well("store", "none: sessions end with the server")
        return
    try:
        facts = look_at_store(settings.store)
    except (StoreError, OSError) as error:
        yield problem("store", error)
        return
    for fact in facts:
        yield unless(fact.fix, fact.what, fact.found)


def _models(settings: Settings) -> Iterator[Finding]:
    from carousel_models import PackageError, discover

    problems = models(settings)
    for one in problems:
        if one.setting in ("models", "allow_custom"):
            yield Finding("models", Level.PROBLEM, one.cause, one.fix)
    try:
        count = len(discover(settings.models))
    except PackageError:
        return  # it is among the problems
    if not problems:
        yield well(
            "models", f"{count} packages in {settings.models}, all with their probes' outputs"
        )
