"""The native transport's library: compiled where it can be, and a named error with a cure where not."""

from __future__ import annotations

import _ctypes
import logging
from pathlib import Path

import pytest

from carousel_server.process.config import ConfigError, Settings
from carousel_server.process.server import wire_options
from carousel_server.wire.native import library
from carousel_server.wire.native.__main__ import main
from carousel_server.wire.native.library import NativeError, NativeLimits
from carousel_server.wire.transport import chosen_transport


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without a compiler, a shipped library or a cache."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_what_is_missing_is_named_with_its_package(nowhere):
    with pytest.raises(NativeError, match=r"apt-get install .*libnghttp2-dev"):
        library.load()


def test_auto_takes_the_python_transport_and_says_why(nowhere, caplog):
    caplog.set_level(logging.INFO, "carousel.wire")
    chosen = chosen_transport("auto")
    assert chosen.name == "python"
    assert "libnghttp2-dev" in chosen.hint
    assert chosen.hint in caplog.text


def test_who_wants_the_python_transport_gets_no_hint(nowhere):
    assert chosen_transport("python") == ("python", "")


def test_a_user_without_a_home_gets_the_python_transport(nowhere, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(library.Path, "home", refused_home)
    chosen = chosen_transport("auto")
    assert chosen.name == "python"
    assert "XDG_CACHE_HOME" in chosen.hint
    assert "XDG_CACHE_HOME" in library.outlook()


def refused_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_file_that_lacks_a_function_is_not_used(nowhere, monkeypatch):
    """Such as one that another library's file was copied over."""
    monkeypatch.setattr(library, "_file", lambda: Path(_ctypes.__file__))
    chosen = chosen_transport("auto")
    assert chosen.name == "python"
    assert "cannot be loaded" in chosen.hint


def test_the_outlook_says_what_auto_takes(nowhere, monkeypatch, tmp_path):
    assert library.outlook().startswith("python; ")
    assert "libnghttp2-dev" in library.outlook()
    monkeypatch.setattr(library, "missing", str)
    assert library.outlook() == "native, compiled at the first start"
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / library._file_name()).touch()
    assert library.outlook() == "native"


def test_a_native_transport_that_must_be_is_refused_with_a_cure(nowhere):
    with pytest.raises(ConfigError, match=r"not found: apt-get(.|\n)*transport=auto"):
        wire_options(Settings(transport="native"))


def test_the_command_says_what_is_missing(nowhere, capsys):
    assert main() == 1
    assert "libssl-dev" in capsys.readouterr().err


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path, caplog):
    """What the start waits for is in the log before it is done."""
    if reason := library.missing():
        pytest.skip(reason)
    caplog.set_level(logging.INFO, "carousel.wire")
    monkeypatch.setattr(library, "_FLAGS", ("-std=c++98",))
    with pytest.raises(NativeError, match=r"g\+\+ fails: "):
        library.compile_into(tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing half made stays"
    assert f"takes some seconds, into {tmp_path}" in caplog.text


def test_limits_are_those_of_the_source():
    header = (library.SOURCES / "connection.h").read_text()
    fields = header[header.index("struct Limits {") :].split("};")[0]
    named = [line.split()[1].rstrip(";") for line in fields.splitlines() if "int64_t" in line]
    assert named == list(NativeLimits.__slots__)


def test_an_address_that_is_taken_is_an_error():
    if reason := library.missing():
        pytest.skip(reason)
    first, second = (library.NativeEndpoint(NativeLimits(4096, 10, 10)) for _ in range(2))
    port = first.listen("127.0.0.1", 0, shared=False)
    with pytest.raises(OSError, match="in use"):
        second.listen("127.0.0.1", port, shared=False)
    with pytest.raises(OSError, match="certificate"):
        first.use_tls(b"no PEM", b"no PEM", b"")
    first.close()
    second.close()
