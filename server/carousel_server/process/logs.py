"""Log lines, as text or JSON. They never have inputs or tokens."""

from __future__ import annotations

import json
import logging
import sys
import time

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record. Others are facts of the caller."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, severity, logger, message and facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Formats a record as text: time, severity, logger, message, and facts as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts = "".join(
            f" {key}={value}"
            for key, value in vars(record).items()
            if key not in _STANDARD and value != ""
        )
        stamp, level = _utc(record.created), record.levelname.lower()
        line = f"{stamp} {level:7} {record.name} {record.getMessage()}{facts}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Labelled(logging.Filter):
    """Gives each record the number of this process's replica."""

    def __init__(self, replica: int) -> None:
        super().__init__()
        self._replica = replica

    def filter(self, record: logging.LogRecord) -> bool:
        """True for every record."""
        record.replica = self._replica
        return True


def configure_logging(level: str, style: str, replica: int | None = None) -> None:
    """Sends the records of this process to stderr.

    Args:
        level: least severity: "debug", "info", "warning" or "error".
        style: "text" or "json".
        replica: a fact of every record: the number of this replica among several.
    """
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    if replica is not None:
        stream.addFilter(_Labelled(replica))
    logging.basicConfig(level=level.upper(), handlers=[stream], force=True)


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
