"""Log lines for people and for machines."""

from __future__ import annotations

import json
import logging
import sys

from carousel_server.process.logs import JsonFormatter, TextFormatter


def record(**extra):
    made = logging.makeLogRecord({"name": "carousel.access", "levelname": "INFO", **extra})
    made.msg, made.created = "a %s line", 1_700_000_000.25
    made.args = ("log",)
    return made


def test_json_has_the_records_own_facts():
    line = json.loads(JsonFormatter().format(record(code="OK", seconds=0.5)))
    assert line == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "carousel.access",
        "message": "a log line",
        "code": "OK",
        "seconds": 0.5,
    }


def test_text_is_one_line_without_empty_facts():
    line = TextFormatter().format(record(code="OK", reason=""))
    assert line == "2023-11-14T22:13:20.250Z info    carousel.access a log line code=OK"


def test_exceptions_are_kept():
    try:
        raise ValueError("why")
    except ValueError:
        made = record(exc_info=sys.exc_info())
    assert "ValueError: why" in TextFormatter().format(made)
    assert "ValueError: why" in json.loads(JsonFormatter().format(made))["exception"]
