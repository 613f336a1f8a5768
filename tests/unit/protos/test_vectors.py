"""The test vectors are current, whole and readable, and the Python SDK passes them."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2  # noqa: F401 - registers the details of a status

from carousel_protos.v1 import carousel_pb2 as pb

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "protos/vectors"
MESSAGES: list[dict[str, Any]] = json.loads((VECTORS / "messages.json").read_text())
SCHEDULES = sorted((VECTORS / "schedules").glob("*.json"))

EVENTS = {
    *("open", "bind", "steps", "read_again", "give_back"),
    *("connected", "receive", "cut", "timer"),
}
EFFECTS = {"sends", "connects", "ends", "raises", "wakes_at_s"}
CLIENT_RULES = {"R1", "R2", "R6", "R7", "R8", "R9", "R10", "R12", "R13", "R16"}
"""Rules of docs/reliability.md that a client meets. The others are of servers and stores."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "client/python/generate_vectors.py"
    spec = importlib.util.spec_from_file_location("generate_vectors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_files_are_current(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generate_vectors.py", "--check"])
    assert script.main() == 0


def test_a_stale_file_is_found_and_written(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "messages.json"
    entry = {"message": "Replay", "about": "x", "json": {"handle": 1}, "base64": "AAAA"}
    path.write_text(json.dumps([entry]))
    monkeypatch.setattr(script, "MESSAGES", path)
    monkeypatch.setattr(sys, "argv", ["generate_vectors.py", "--check"])
    assert script.main() == 1
    assert json.loads(path.read_text())[0]["base64"] == "AAAA"
    monkeypatch.setattr(sys, "argv", ["generate_vectors.py"])
    assert script.main() == 0
    assert json.loads(path.read_text())[0]["base64"] == "CAE="


def test_every_field_of_the_protocol_is_set_somewhere(script: ModuleType) -> None:
    assert script.uncovered(MESSAGES) == []
    less = [entry for entry in MESSAGES if entry["message"] != "GetModelRequest"]
    assert script.uncovered(less) == ["GetModelRequest.name"]


@pytest.mark.parametrize("entry", MESSAGES, ids=lambda one: f"{one['message']}: {one['about']}")
def test_the_bytes_are_those_of_the_json_form(entry: dict[str, Any]) -> None:
    kind = getattr(pb, entry["message"])
    data = base64.b64decode(entry["base64"])
    message = kind.FromString(data)
    assert json_format.MessageToDict(message) == entry["json"]
    assert message == json_format.ParseDict(entry["json"], kind())
    assert message.SerializeToString() == data
    assert entry["about"]


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.stem)
def test_the_sdk_passes_a_schedule(script: ModuleType, path: Path) -> None:
    schedule = read(path)
    player = script.Player(schedule.get("servers", ["one:1"]))
    for number, event in enumerate(schedule["events"]):
        given = {key: part for key, part in event.items() if key != "effects"}
        assert player.play(given) == event["effects"], f"event {number}: {given}"


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.stem)
def test_a_schedule_has_the_form_of_the_readme(path: Path) -> None:
    schedule = read(path)
    assert set(schedule) <= {"about", "rules", "servers", "events"}
    assert schedule["about"].endswith(".")
    for event in schedule["events"]:
        assert len(set(event) & EVENTS) == 1
        assert set(event) <= {*EVENTS, "effects", "at_s", "server"}
        assert set(event["effects"]) <= EFFECTS


def test_the_schedules_cover_events_messages_and_rules() -> None:
    schedules = [read(path) for path in SCHEDULES]
    events = [event for schedule in schedules for event in schedule["events"]]
    assert {kind for event in events for kind in set(event) & EVENTS} == EVENTS
    assert {kind for event in events for kind in event["effects"]} == EFFECTS
    assert {rule for schedule in schedules for rule in schedule["rules"]} >= CLIENT_RULES
    came = {kind for event in events for kind in event.get("receive", {})}
    assert came == {field.name for field in pb.AttachResponse.DESCRIPTOR.fields}
    sent = {kind for event in events for one in event["effects"].get("sends", []) for kind in one}
    assert sent - {"server"} == {field.name for field in pb.AttachRequest.DESCRIPTOR.fields}


def test_the_readme_names_every_event_and_effect() -> None:
    text = (VECTORS / "README.md").read_text()
    for name in (*EVENTS, *EFFECTS):
        assert f"| `{name}` |" in text


def test_a_change_of_the_core_shows(script: ModuleType) -> None:
    schedule = read(VECTORS / "schedules/cut-and-resume.json")
    *head, last = schedule["events"]
    wrong = {**last, "effects": {}}
    assert script.played({**schedule, "events": [*head, wrong]}) == schedule
