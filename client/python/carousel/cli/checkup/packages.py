"""Checks Python and the installed packages against what Carousel's own metadata asks for."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version

from .findings import Finding, Level

DISTRIBUTION = "carousel-serving"
_NEEDS = re.compile(r"(?P<name>[\w.-]+)>=(?P<least>[\d.]+)(?:; extra == ['\"](?P<extra>\w+)['\"])?")
_SERVER_MARK = "torch"
"""The package of the extra `server` that no client has by chance."""


def python() -> Finding:
    """The interpreter."""
    found = f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    if enabled:
        return Finding("python", Level.OK, found)
    fix = "use the usual build: gRPC has no wheels for this one"
    return Finding("python", Level.WARNING, f"{found}, free-threaded", fix)


def packages(needed: Sequence[str] | None = None) -> Iterator[Finding]:
    """The packages: the versions of all, or a problem for each that is missing or too old.

    Args:
        needed: requirements as in the metadata of a distribution. None reads our own.
    """
    if needed is None:
        try:
            needed = requires(DISTRIBUTION) or []
        except PackageNotFoundError:
            fix = "pip install carousel-serving, or make install in a clone"
            yield Finding("packages", Level.WARNING, "Carousel is not installed as a package", fix)
            return
    there: dict[str, str] = {}
    faults = []
    has_server = installed(_SERVER_MARK) is not None
    for name, least, extra in parsed(needed):
        found = installed(name)
        if extra not in ("", "server") or (extra and not has_server):
            continue
        if found is None or is_older(found, least):
            faults.append(_fault(name, least, extra, found))
        else:
            there[name] = found
    yield from faults
    yield from unfit(there)
    yield from slow_protobuf()
    shown = ", ".join(f"{name} {found}" for name, found in there.items())
    yield Finding("packages", Level.OK, shown)
    if not has_server:
        fix = "to serve here: pip install 'carousel-serving[server]'"
        yield Finding("server", Level.SKIPPED, "the server's packages are not installed", fix)


def unfit(there: Mapping[str, str]) -> Iterator[Finding]:
    """Problems of gRPC's companions that are newer than gRPC: their generated code refuses to be imported."""
    grpc = there.get("grpcio")
    for name, found in there.items():
        if grpc and name.startswith("grpcio-") and _numbers(grpc)[:2] < _numbers(found)[:2]:
            told = f"{name} {found} is newer than grpcio {grpc}, and needs one as new"
            yield Finding(
                "packages", Level.PROBLEM, told, f"pip install --upgrade 'grpcio>={found}'"
            )


def slow_protobuf() -> Iterator[Finding]:
    """A warning if protobuf has no native code. Each message then takes many times as long."""
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() == "python":
        told = "protobuf runs in pure Python, which makes each message many times slower"
        fix = "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install protobuf from a wheel"
        yield Finding("packages", Level.WARNING, told, fix)


def parsed(needed: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Name, least version and extra of each requirement of the form NAME>=VERSION."""
    for text in needed:
        match = _NEEDS.fullmatch(text)
        if match is not None:
            yield match["name"], match["least"], match["extra"] or ""


def installed(package: str) -> str | None:
    """The version of an installed package, from its metadata. The package is not imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_older(found: str, least: str) -> bool:
    """True if a version is below another. Only the numbers before a letter count."""
    return _numbers(found) < _numbers(least)


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part]  # type: ignore[index]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def _fault(name: str, least: str, extra: str, found: str | None) -> Finding:
    whole = f"'carousel-serving[{extra}]'" if extra else "carousel-serving"
    has = f"{name} {found} is too old" if found else f"{name} is not installed"
    fix = f"pip install --upgrade {whole}: it needs {name} {least} or newer"
    return Finding("packages", Level.PROBLEM, has, fix)
