"""The fake server's sessions: their cursors, states and unacknowledged outputs."""

from __future__ import annotations

import codecs
import copy
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from carousel_protos.v1 import carousel_pb2 as pb

from .model import FakeModel
from .refusals import Refusal
from .states import ONLY, arrays_of, begun

STORED = (
    "state", "applied", "ack", "attach_id", "drawn", "unfinished", "begun", "inputs", "outputs", "resets",
)  # fmt: skip
"""Names of the facts that the store has of a session."""

_LEASE_S = 10.0
"""The hint of a session that another server has: as long as that one's lease lasts, unless it is renewed."""


class Owner(Protocol):
    """The stream that a session is bound to."""

    def unbind(self, session: FakeSession, refusal: Refusal | None) -> None:
        """Ends the binding, and sends Unbound."""

    def move(self, session: FakeSession, address: str) -> None:
        """Ends the binding, and sends Moved."""

    def commit(self, session: FakeSession) -> None:
        """Commits the session to the store, and sends Durable."""


@dataclass
class FakeSession:
    """One session. The lock of FakeSessions guards it.

    Attributes:
        execution_class: as in the protocol's Session.
        holder: address of the server that has it. "" if none has.
        begun: request of the last generation, and the STORED facts from before it.
        stored: the STORED facts of the last commit. None where the session has no store.
    """

    id: str
    model: FakeModel
    state: Any
    seed: int
    durability: Any = pb.DURABILITY_NONE
    applied: int = 0
    ack: int = 0
    epoch: int = 1
    attach_id: int = 0
    owner: Owner | None = None
    holder: str = ""
    execution_class: str = "fake"
    initial: str = ""
    drawn: list[int] = field(default_factory=list)  # tokens of a generation, not fed back yet
    unfinished: bytes = b""  # bytes of a character that is not complete
    begun: tuple[bytes, dict[str, Any]] | None = None
    inputs: dict[int, bytes] = field(default_factory=dict)
    outputs: dict[int, bytes] = field(default_factory=dict)
    resets: dict[int, bool] = field(default_factory=dict)
    stored: dict[str, Any] | None = None
    created_at_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        if self.durability != pb.DURABILITY_NONE:
            self.commit()

    @property
    def durable(self) -> int:
        """Last step that the store has confirmed."""
        return self.stored["applied"] if self.stored is not None else 0

    @property
    def visible(self) -> int:
        """Last step whose output may be sent."""
        return self.durable if self.durability >= pb.DURABILITY_SYNC else self.applied

    def taken(self) -> dict[str, Any]:
        """A copy of the STORED facts, without `begun`."""
        return copy.deepcopy({name: getattr(self, name) for name in STORED if name != "begun"})

    def commit(self) -> None:
        """Commits all steps that have run to the store."""
        self.stored = self.taken() | {"begun": self.begun}

    def roll_back(self, stored: dict[str, Any]) -> None:
        """Restores the facts of a `taken` or a `stored`."""
        for name, value in copy.deepcopy(stored).items():
            setattr(self, name, value)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete. Without a tokenizer, one character a token."""
        if self.model.tokenizer != "bytes":
            return "".join(map(chr, tokens))
        data = self.unfinished + bytes(token for token in tokens if token < 256)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self.unfinished = data[used:]
        return text

    def begin_generation(self, request: pb.GenerateRequest) -> None:
        """Begins a generation, or restores the beginning of the last one if it is repeated."""
        same = request.SerializeToString(deterministic=True)
        if self.begun is not None and request.first_seq and self.begun[0] == same:
            begun = self.begun
            self.roll_back(begun[1])
            self.begun = begun
            return
        if request.first_seq > self.applied + 1:
            raise Refusal("SEQUENCE_GAP", expected=self.applied + 1)
        if 0 < request.first_seq <= self.applied:
            raise Refusal("OUTPUT_FORGOTTEN")
        self.begun = same, self.taken()

    def message(self) -> pb.Session:
        """The protocol's Session."""
        message = pb.Session(
            id=self.id,
            model=self.model.name,
            phase=pb.PHASE_RESIDENT,
            applied=self.applied,
            ack=self.ack,
            durable=self.durable,
            epoch=self.epoch,
            durability=self.durability,
            fingerprint=self.model.message().fingerprint,
            window_steps=self.model.window_steps,
            seed=self.seed,
            execution_class=self.execution_class,
            initial=self.initial,
        )
        message.idle_ttl.FromSeconds(3600)
        message.created_at.FromNanoseconds(self.created_at_ns)
        return message

    def is_visible_at(self, here: str) -> bool:
        """Whether the server at `here` has it, or can read it in the store."""
        return self.stored is not None or self.holder in ("", here)

    def seen_from(self, here: str) -> pb.Session:
        """The protocol's Session as the server at `here` reads it."""
        message = self.message()
        if self.holder not in ("", here):
            message.holder, message.applied, message.ack = self.holder, self.durable, 0
        return message

    def acknowledge(self, ack: int) -> None:
        """Forgets inputs, resets and outputs up to step `ack`."""
        self.ack = max(self.ack, min(ack, self.visible))
        for kept in (self.inputs, self.outputs, self.resets):
            for seq in [seq for seq in kept if seq <= self.ack]:
                del kept[seq]

    def start_over(self) -> None:
        """Goes back to the initial state, with the next step."""
        self.state = begun(self.model, self.initial)
        self.drawn, self.unfinished = [], b""

    def steps(self, first: int, rows: list[bytes], resets: Sequence[int] = ()) -> None:
        """Runs the steps that are new. Repeated steps must have the bytes and resets from before.

        Raises:
            Refusal: by the rules of the protocol; no step of the call has run.
        """
        if first > self.applied + 1:
            raise Refusal("SEQUENCE_GAP", expected=self.applied + 1)
        if first <= self.ack:
            raise Refusal("OUTPUT_FORGOTTEN")
        if first + len(rows) - 1 > self.ack + self.model.window_steps:
            raise Refusal("WINDOW_EXCEEDED", retry_after_s=0.01)
        self._check(rows)
        for seq, row in enumerate(rows, first):
            reset = bool(resets) and bool(resets[seq - first])
            if self.inputs.get(seq, row) != row or self.resets.get(seq, reset) != reset:
                raise Refusal("SEQUENCE_REUSED")
            if seq == self.applied + 1:
                if reset:
                    self.start_over()
                codec, _ = self.model.codecs()
                self.outputs[seq], self.state = self.model.run(codec.decode(row, 1), self.state)
                self.inputs[seq], self.resets[seq] = row, reset
                self.applied = seq

    def kept(self, first: int, last: int) -> bytes:
        """The outputs of steps `first` to `last`, which are not acknowledged."""
        return b"".join(self.outputs[seq] for seq in range(first, last + 1))

    def snapshot(self) -> bytes:
        """Model, state and cursor as JSON."""
        return json.dumps(
            {
                "model": self.model.name,
                "initial": self.initial,
                "state": {
                    name: (array.tolist(), array.dtype.str)
                    for name, array in arrays_of(self.state).items()
                },
                "applied": self.applied,
                "seed": self.seed,
            }
        ).encode()

    def _check(self, rows: list[bytes]) -> None:
        codec, _ = self.model.codecs()
        if any(len(row) != codec.row_bytes for row in rows):
            raise Refusal("INPUT_SHAPE")
        values = codec.decode(b"".join(rows), -1)
        if not np.isfinite(values).all():
            raise Refusal("INPUT_NOT_FINITE")
        if self.model.vocabulary and not ((values >= 0) & (values < self.model.vocabulary)).all():
            raise Refusal("UNKNOWN_TOKEN")


class FakeSessions:
    """All sessions of a fake server, or of several that share a store.

    Args:
        models: by name.
        durability: of a session that names none. NONE means that there is no store.

    Attributes:
        lock: guards the sessions, and each of them.
        by_id: the open sessions.
    """

    def __init__(self, models: dict[str, FakeModel], durability: Any) -> None:
        self.lock = threading.RLock()
        self.by_id: dict[str, FakeSession] = {}
        self._durability = durability
        self._models = models
        self._numbers = 0

    def model(self, name: str) -> FakeModel:
        """The model of this name. Raises Refusal."""
        if name not in self._models:
            raise Refusal("MODEL_NOT_FOUND", model=name)
        return self._models[name]

    def open(self, request: pb.OpenSessionRequest) -> FakeSession:
        """A new session, or the open one of this id. Raises Refusal."""
        model = self.model(request.model)
        if not model.causal:
            raise Refusal("MODEL_NOT_CAUSAL")
        durability = request.durability or self._durability
        if durability > pb.DURABILITY_NONE == self._durability:
            raise Refusal("DURABILITY_UNAVAILABLE")
        known = self.by_id.get(request.session_id)
        if known is not None:
            if known.model is not model or request.initial not in ("", known.initial):
                raise Refusal("SESSION_EXISTS")
            return known
        state = begun(model, request.initial, request.state)
        session = self._add(request.session_id, model, state, request.seed, durability)
        session.initial = request.initial
        return session

    def get(self, session_id: str) -> FakeSession:
        """The open session of this id. Raises Refusal."""
        if session_id not in self.by_id:
            raise Refusal("SESSION_NOT_FOUND", session=session_id)
        return self.by_id[session_id]

    def take(self, session_id: str, here: str, *, take_over: bool = False) -> FakeSession:
        """The session for the server at `here`. One that another server has is handed over.

        Raises:
            Refusal: it has a stream there, and `take_over` is False.
        """
        session = self.get(session_id)
        if session.holder in ("", here):
            session.holder = here
            return session
        if session.stored is None:
            raise Refusal("SESSION_NOT_FOUND", session=session_id)
        if session.owner is not None and not take_over:
            raise Refusal("SESSION_HELD", retry_after_s=_LEASE_S, owner=session.holder)
        self.hand_over(session, here)
        session.holder = here
        return session

    @staticmethod
    def hand_over(session: FakeSession, address: str) -> None:
        """Its server commits and releases a session, and tells its stream where to go."""
        session.commit()
        session.epoch += 1
        session.holder = ""
        if session.owner is not None:
            session.owner.move(session, address)

    def close(self, session_id: str) -> FakeSession:
        """Removes a session and returns it. Raises Refusal."""
        session = self.get(session_id)
        del self.by_id[session_id]
        return session

    def crash(self, address: str = "") -> None:
        """Restores the sessions of one server, or all (""), from the store. Those without one are gone."""
        for session in list(self.by_id.values()):
            if address not in ("", session.holder):
                continue
            session.owner, session.holder = None, ""
            if session.stored is None:
                del self.by_id[session.id]
            else:
                session.roll_back(session.stored)
                session.epoch += 1

    def commit(self, session_id: str = "") -> None:
        """Commits one session, or all (""), and notifies its stream."""
        for session in self.by_id.values():
            if session_id not in ("", session.id) or session.stored is None:
                continue
            if session.owner is None:
                session.commit()
            else:
                session.owner.commit(session)

    def page(self, model: str, after: str, size: int, here: str) -> list[FakeSession]:
        """The next `size` sessions by id that the server at `here` knows, of one model or of all ("")."""
        found = [
            one
            for one in self.by_id.values()
            if one.id > after and model in ("", one.model.name) and one.is_visible_at(here)
        ]
        return sorted(found, key=lambda session: session.id)[:size]

    def restore(self, snapshot: bytes, session_id: str) -> FakeSession:
        """Opens a session from a snapshot. Raises Refusal."""
        try:
            taken = json.loads(snapshot)
            arrays = {name: np.asarray(*value)[()] for name, value in taken["state"].items()}
            initial = str(taken["initial"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refusal("SNAPSHOT_INVALID") from None
        state = arrays.get(ONLY, arrays)
        session = self._add(session_id, self.model(taken["model"]), state, taken["seed"])
        session.initial = initial
        session.applied = session.ack = taken["applied"]
        return session

    def _add(
        self,
        session_id: str,
        model: FakeModel,
        state: Any,
        seed: int,
        durability: Any = pb.DURABILITY_NONE,
    ) -> FakeSession:
        if session_id in self.by_id:
            raise Refusal("SESSION_EXISTS")
        self._numbers += 1
        session = FakeSession(session_id or f"fake-{self._numbers}", model, state, seed, durability)
        self.by_id[session.id] = session
        return session
