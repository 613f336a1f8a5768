"""Writes protos/vectors: the bytes of messages, and what the client core does in each schedule.

Both kinds of file are their own source. Of messages.json, this script reads the JSON forms and writes their
bytes. Of a schedule it reads the events, lets the SDK's core take them, and writes the effects. Check a
change of effects by eye: other SDKs pass the same files.

Run it after a change of either:  python client/python/generate_vectors.py [--check]
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from carousel._core.addresses import Addresses
from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.lane import Lane
from carousel._core.retry import RetryPolicy
from carousel._core.tickets import BindTicket, StepTicket, Ticket, UnbindTicket
from carousel._error_bases import CarouselError, ConnectionLostError
from carousel._errors import DrainingError
from carousel_protos.errors import DOMAIN, ERRORS
from carousel_protos.v1 import carousel_pb2 as pb

VECTORS = Path(__file__).parents[2] / "protos" / "vectors"
MESSAGES = VECTORS / "messages.json"
SCHEDULES = VECTORS / "schedules"

Record = dict[str, Any]

CUTS: dict[str, Callable[[], CarouselError]] = {
    "lost": lambda: ConnectionLostError("the connection is lost"),
    "DRAINING": lambda: DrainingError("the server stops"),
}
"""Why a stream ends, by the name in a schedule."""


# -- messages


def with_bytes(entries: Sequence[Record]) -> list[Record]:
    """The entries of messages.json with the bytes of each message, in base64."""
    made = []
    for entry in entries:
        message = json_format.ParseDict(entry["json"], getattr(pb, entry["message"])())
        data = message.SerializeToString(deterministic=True)
        form = json_format.MessageToDict(message)
        made.append({**entry, "json": form, "base64": base64.b64encode(data).decode()})
    return made


def uncovered(entries: Sequence[Record]) -> list[str]:
    """Fields of the protocol's messages that no entry sets."""
    wanted = {
        f"{name}.{field.name}"
        for name, kind in pb.DESCRIPTOR.message_types_by_name.items()
        for field in kind.fields
    }
    for entry in entries:
        message = json_format.ParseDict(entry["json"], getattr(pb, entry["message"])())
        wanted -= set(fields_of(message))
    return sorted(wanted)


def fields_of(message: Message) -> Iterator[str]:
    """The fields that a message and those within it set."""
    for field, value in message.ListFields():
        yield f"{message.DESCRIPTOR.name}.{field.name}"
        for one in value if field.is_repeated else [value]:
            if isinstance(one, Message) and one.DESCRIPTOR.file is pb.DESCRIPTOR:
                yield from fields_of(one)


# -- schedules


class NoJitter:
    """In the place of random numbers: pauses have their least length."""

    def random(self) -> float:
        """0."""
        return 0.0


class Player:
    """A client core that takes the events of a schedule.

    Args:
        servers: their addresses. The first one is that of events that name none.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        self._first, self._now_s = servers[0], 0.0
        numbers = iter(range(1, 1000))
        self._core = AttachCore(
            Addresses(servers),
            RetryPolicy(),
            rng=NoJitter(),  # type: ignore[arg-type]
            attach_id=lambda: next(numbers),
        )
        self._lanes: dict[str, Lane] = {}
        self._tickets: dict[Ticket, str] = {}
        self._attach_ids: dict[int, int] = {}

    def play(self, event: Record) -> Record:
        """Takes one event. Returns its effects."""
        self._now_s = event.get("at_s", self._now_s)
        kinds: dict[str, Callable[[Any, str], Effects]] = {
            "open": self._open, "bind": self._bind, "steps": self._steps, "read_again": self._read_again,
            "give_back": self._give_back, "connected": self._connected, "receive": self._receive,
            "cut": self._cut, "timer": self._timer,
        }  # fmt: skip
        (kind,) = set(event) & set(kinds)
        try:
            return self._shown(kinds[kind](event[kind], event.get("server", self._first)))
        except CarouselError as error:
            return {"raises": error.reason}

    # What the application asks for.

    def _open(self, asked: Record, _server: str) -> Effects:
        request = json_format.ParseDict(asked, pb.OpenSessionRequest())
        return self._bound(request.session_id, request)

    def _bind(self, asked: Record, _server: str) -> Effects:
        return self._bound(asked["session"], asked["session"], int(asked.get("epochFloor", 0)))

    def _bound(self, name: str, target: str | pb.OpenSessionRequest, epoch: int = 0) -> Effects:
        ticket, effects = self._core.bind(target, epoch, now_s=self._now_s)
        self._lanes[name], self._tickets[ticket] = ticket.lane, name
        return effects

    def _steps(self, asked: Record, _server: str) -> Effects:
        rows = [base64.b64decode(row) for row in asked["rows"]]
        inputs = np.frombuffer(b"".join(rows), np.uint8).reshape(1, len(rows), -1)
        resets = np.array([asked["resets"]], np.uint8) if "resets" in asked else None
        lane = self._lanes[asked["session"]]
        ticket, effects = self._core.submit([lane], inputs, 4, resets=resets)
        self._tickets[ticket] = asked["session"]
        return effects

    def _read_again(self, asked: Record, _server: str) -> Effects:
        ticket, effects = self._core.replay(self._lanes[asked["session"]], 4)
        if ticket is not None:
            self._tickets[ticket] = asked["session"]
        return effects

    def _give_back(self, asked: Record, _server: str) -> Effects:
        lane = self._lanes[asked["session"]]
        ticket, effects = self._core.unbind(lane, close=asked.get("close", False))
        if ticket is not None:
            self._tickets[ticket] = asked["session"]
        return effects

    # What happens on the streams.

    def _connected(self, _: Record, server: str) -> Effects:
        return self._core.connected(server)

    def _receive(self, told: Record, server: str) -> Effects:
        failure = told.get("failure", {})
        named = failure.get("status", {}).get("metadata", {}).get("attach_id")
        if named is not None:
            self._attach_ids[failure["handle"]] = int(named)
        told = json.loads(json.dumps(told), object_hook=with_status)
        response = json_format.ParseDict(told, pb.AttachResponse(), ignore_unknown_fields=True)
        return self._core.receive(server, response, self._now_s)

    def _cut(self, why: str, server: str) -> Effects:
        return self._core.broken(server, CUTS[why](), self._now_s)

    def _timer(self, _: Record, _server: str) -> Effects:
        return self._core.due(self._now_s)

    # Effects as a schedule has them.

    def _shown(self, effects: Effects) -> Record:
        shown: Record = {}
        sends = [
            self._message(server, message)
            for server, messages in effects.send.items()
            for message in messages
        ]
        connects = [self._connect(server, pause_s) for server, pause_s in effects.connect.items()]
        ends = [self._ended(ticket) for ticket in effects.ended]
        for name, found in (("sends", sends), ("connects", connects), ("ends", ends)):
            if found:
                shown[name] = found
        if self._core.next_due_s is not None:
            shown["wakes_at_s"] = round(self._core.next_due_s, 6)
        return shown

    def _message(self, server: str, message: pb.AttachRequest) -> Record:
        form: Record = json_format.MessageToDict(message)
        form.get("hello", {}).pop("client", None)
        if "bind" in form:
            # Any numbers will do that grow.
            new = int(form["bind"].pop("attachId"))
            assert new > self._attach_ids.get(message.bind.handle, 0), "an attach_id grows"
            self._attach_ids[message.bind.handle] = new
        return form if server == self._first else {"server": server, **form}

    def _connect(self, server: str, pause_s: float) -> Record:
        shown: Record = {} if server == self._first else {"server": server}
        return {**shown, "after_s": round(pause_s, 6)}

    def _ended(self, ticket: Ticket) -> Record:
        shown: Record = {"session": self._tickets.get(ticket, "")}
        if ticket.error is not None:
            return {**shown, **fault(ticket.error)}
        if isinstance(ticket, StepTicket):
            error = ticket.errors.get(0)
            count = ticket.steps if error is None else ticket.answered_steps
            rows = [base64.b64encode(row.tobytes()).decode() for row in ticket.outputs[0, :count]]
            shown |= {"first_seq": ticket.first_seqs[0], "outputs": rows}
            return shown if error is None else {**shown, **fault(error)}
        kinds = {BindTicket: "bound", UnbindTicket: "given back"}
        return {**shown, "what": kinds[type(ticket)]}


def fault(error: CarouselError) -> Record:
    """The reason of an error, and the step that it names."""
    return {"error": error.reason, **({"seq": error.seq} if error.seq else {})}


def with_status(told: Record) -> Record:
    """{"reason": …} in the place of a status becomes the whole status, with details as servers send them."""
    short = told.get("status")
    if not isinstance(short, dict) or "reason" not in short:
        return told
    spec = ERRORS[short["reason"]]
    status = Status(code=spec.code.value, message=spec.meaning)
    info = details.ErrorInfo(
        reason=short["reason"], domain=DOMAIN, metadata=short.get("metadata", {})
    )
    found: list[Message] = [info]
    if "retry_after_s" in short:
        retry = details.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(short["retry_after_s"] * 1e9))
        found.append(retry)
    for detail in found:
        status.details.add().Pack(detail)
    return {**told, "status": json_format.MessageToDict(status)}


def played(schedule: Record) -> Record:
    """The schedule with the effects of each event."""
    player = Player(schedule.get("servers", ["one:1"]))
    events = []
    for event in schedule["events"]:
        given = {key: value for key, value in event.items() if key != "effects"}
        events.append({**given, "effects": player.play(given)})
    return {**schedule, "events": events}


# -- files


def as_text(value: Any) -> str:
    """JSON with one event or entry a line, so that a change of one is a change of few lines."""
    if isinstance(value, list):
        return (
            "[\n"
            + ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in value)
            + "\n]\n"
        )
    head = {key: part for key, part in value.items() if key != "events"}
    lines = [f"  {json.dumps(key)}: {json.dumps(part)}," for key, part in head.items()]
    events = ",\n".join(f"    {json.dumps(one)}" for one in value["events"])
    return "\n".join(["{", *lines, '  "events": [', events, "  ]", "}", ""])


def files() -> Iterator[tuple[Path, str]]:
    """Each file, and the text that it should have."""
    yield MESSAGES, as_text(with_bytes(json.loads(MESSAGES.read_text(encoding="utf-8"))))
    for path in sorted(SCHEDULES.glob("*.json")):
        yield path, as_text(played(json.loads(path.read_text(encoding="utf-8"))))


def main() -> int:
    """Writes the files, or compares them with --check. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a file is stale")
    check = parser.parse_args().check
    stale = []
    for path, text in files():
        if path.read_text(encoding="utf-8") == text:
            continue
        if check:
            stale.append(path)
        else:
            path.write_text(text, encoding="utf-8")
    for path in stale:
        sys.stderr.write(f"stale: {path}; run python client/python/generate_vectors.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
