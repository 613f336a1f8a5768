"""The fake server's sessions: cursors and kept outputs, by the protocol's rules R1 and R2."""

from __future__ import annotations

import codecs
import copy
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carousel_protos.v1 import carousel_pb2 as pb

from .model import FakeModel
from .refusals import Refusal

EXECUTION_CLASS = "fake"

STORED = (
    "state", "applied", "ack", "attach_id", "drawn", "unfinished", "begun", "inputs", "outputs",
)  # fmt: skip
"""What a snapshot holds."""


@dataclass
class FakeSession:
    """One session. The lock is its owner's, FakeSessions.

    Attributes:
        begun: request of the last generation, and the STORED things as they were before it.
        stored: the STORED things as of the last commit; None in a session that no store keeps.
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
    owner: object = None
    drawn: list[int] = field(default_factory=list)  # by a generation, and not fed back yet
    unfinished: bytes = b""  # of a character, in the text of a model of bytes
    begun: tuple[bytes, dict[str, Any]] | None = None
    inputs: dict[int, bytes] = field(default_factory=dict)
    outputs: dict[int, bytes] = field(default_factory=dict)
    stored: dict[str, Any] | None = None
    created_at_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        if self.durability != pb.DURABILITY_NONE:
            self.commit()

    @property
    def durable(self) -> int:
        """Last step that the store has."""
        return self.stored["applied"] if self.stored is not None else 0

    @property
    def visible(self) -> int:
        """Last step that the client may be told of."""
        return self.durable if self.durability >= pb.DURABILITY_SYNC else self.applied

    def taken(self) -> dict[str, Any]:
        """A copy of all that a snapshot holds."""
        return copy.deepcopy({name: getattr(self, name) for name in STORED if name != "begun"})

    def commit(self) -> None:
        """The store has all that ran."""
        self.stored = self.taken() | {"begun": self.begun}

    def roll_back(self, stored: dict[str, Any]) -> None:
        """Goes back to what `taken` gave."""
        for name, value in copy.deepcopy(stored).items():
            setattr(self, name, value)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text that tokens complete, of a model of bytes; otherwise a character per token."""
        if self.model.tokenizer != "bytes":
            return "".join(map(chr, tokens))
        data = self.unfinished + bytes(token for token in tokens if token < 256)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self.unfinished = data[used:]
        return text

    def begin_generation(self, request: pb.GenerateRequest) -> None:
        """Goes back to where the last generation began, if the same one is asked for again."""
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
        """As GetSession tells it."""
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
            execution_class=EXECUTION_CLASS,
        )
        message.idle_ttl.FromSeconds(3600)
        message.created_at.FromNanoseconds(self.created_at_ns)
        return message

    def acknowledge(self, ack: int) -> None:
        """Forgets outputs up to `ack`."""
        self.ack = max(self.ack, min(ack, self.visible))
        for kept in (self.inputs, self.outputs):
            for seq in [seq for seq in kept if seq <= self.ack]:
                del kept[seq]

    def steps(self, first: int, rows: list[bytes]) -> None:
        """Runs what is new; what ran before must be the same, and its outputs kept."""
        if first > self.applied + 1:
            raise Refusal("SEQUENCE_GAP", expected=self.applied + 1)
        if first <= self.ack:
            raise Refusal("OUTPUT_FORGOTTEN")
        if first + len(rows) - 1 > self.ack + self.model.window_steps:
            raise Refusal("WINDOW_EXCEEDED", retry_after_s=0.01)
        self._check(rows)
        for seq, row in enumerate(rows, first):
            if self.inputs.get(seq, row) != row:
                raise Refusal("SEQUENCE_REUSED")
            if seq == self.applied + 1:
                codec, _ = self.model.codecs()
                self.outputs[seq], self.state = self.model.run(codec.decode(row, 1), self.state)
                self.inputs[seq] = row
                self.applied = seq

    def kept(self, first: int, last: int) -> bytes:
        """Outputs that were computed and not acknowledged."""
        return b"".join(self.outputs[seq] for seq in range(first, last + 1))

    def snapshot(self) -> bytes:
        """State and cursors as JSON."""
        state = np.asarray(self.state)
        return json.dumps(
            {
                "model": self.model.name,
                "state": state.tolist(),
                "dtype": state.dtype.str,
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
    """All sessions of a fake server, and the lock that guards them and each of them."""

    def __init__(self, models: dict[str, FakeModel], *, durable: bool) -> None:
        self.lock = threading.RLock()
        self._durable = durable
        self._models = models
        self._open: dict[str, FakeSession] = {}
        self._numbers = 0

    def model(self, name: str) -> FakeModel:
        """By its name."""
        if name not in self._models:
            raise Refusal("MODEL_NOT_FOUND", model=name)
        return self._models[name]

    def open(self, request: pb.OpenSessionRequest) -> FakeSession:
        """A new one, or the open one of this id."""
        model = self.model(request.model)
        if not model.causal:
            raise Refusal("MODEL_NOT_CAUSAL")
        durability = request.durability or (
            pb.DURABILITY_ASYNC if self._durable else pb.DURABILITY_NONE
        )
        if durability > pb.DURABILITY_NONE and not self._durable:
            raise Refusal("DURABILITY_UNAVAILABLE")
        known = self._open.get(request.session_id)
        if known is not None:
            if known.model is not model:
                raise Refusal("SESSION_EXISTS")
            return known
        state = copy.deepcopy(model.initial)
        return self._add(request.session_id, model, state, request.seed, durability)

    def get(self, session_id: str) -> FakeSession:
        """An open one."""
        if session_id not in self._open:
            raise Refusal("SESSION_NOT_FOUND", session=session_id)
        return self._open[session_id]

    def close(self, session_id: str) -> FakeSession:
        """Ends one."""
        self.get(session_id)
        return self._open.pop(session_id)

    def crash(self) -> None:
        """All processes die: sessions go back to what the store has of them, or are gone."""
        for session in list(self._open.values()):
            session.owner = None
            if session.stored is None:
                del self._open[session.id]
            else:
                session.roll_back(session.stored)
                session.epoch += 1

    def all(self) -> list[FakeSession]:
        """Every open one."""
        return list(self._open.values())

    def page(self, model: str, after: str, size: int) -> list[FakeSession]:
        """The next `size` by id."""
        found = [s for s in self._open.values() if s.id > after and model in ("", s.model.name)]
        return sorted(found, key=lambda session: session.id)[:size]

    def restore(self, snapshot: bytes, session_id: str) -> FakeSession:
        """From a snapshot."""
        try:
            taken = json.loads(snapshot)
            state = np.asarray(taken["state"], taken["dtype"])[()]
        except (ValueError, KeyError, TypeError):
            raise Refusal("SNAPSHOT_INVALID") from None
        session = self._add(session_id, self.model(taken["model"]), state, taken["seed"])
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
        if session_id in self._open:
            raise Refusal("SESSION_EXISTS")
        self._numbers += 1
        session = FakeSession(session_id or f"fake-{self._numbers}", model, state, seed, durability)
        self._open[session.id] = session
        return session
