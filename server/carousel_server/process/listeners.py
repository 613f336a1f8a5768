"""Which process listens on a port, on systems with /proc."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTENS = "0A"
_PYTHON = "python"


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens.

    Attributes:
        pid: its id.
        program: the name of its program or Python module. Its arguments are left out, as they may be secrets.
    """

    pid: int
    program: str

    @property
    def is_carousel(self) -> bool:
        """True for a server of ours."""
        return self.program.startswith("carousel")

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program})"


def listener(port: int, proc: Path = _PROC) -> Listener | None:
    """The process that listens on a TCP port of any address. None if it cannot be found.

    Processes of other users are found by root only.
    """
    sockets = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    if not sockets:
        return None
    for folder in proc.glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if any(str(file.readlink()) in sockets for file in (folder / "fd").iterdir()):
                return Listener(int(folder.name), _program(folder))
    return None


def _inodes(port: int, proc: Path) -> Iterator[str]:
    """The sockets that listen on a port, of IPv4 and IPv6."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]


def _program(folder: Path) -> str:
    """The program of a process, or the module or script that its Python runs."""
    words = (folder / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    name = Path(words[0]).name
    if not name.startswith(_PYTHON):
        return name or (folder / "comm").read_text(encoding="utf-8").strip()
    return _of_python(words[1:]) or name


def _of_python(words: Sequence[str]) -> str:
    for place, word in enumerate(words):
        if word == "-m":
            return words[place + 1] if place + 1 < len(words) else ""
        if not word.startswith("-"):
            return Path(word).name
    return ""
