"""What the oracle knows of each session: which input each step was given, and what follows."""

from __future__ import annotations

from dataclasses import dataclass, field

from carousel_server.core.types import Durability

from .model import fold


@dataclass(slots=True, eq=False)
class Writer:
    """Whoever feeds a session: one attach of an application; with a journal, those of its later lives too.

    Attributes:
        name: for people.
        told: last output that reached the application process that lives now.
        rows: the outputs that it was told, where replays may differ.
        must_diverge: one has come again and differed, so it must hear of that.
    """

    name: str
    session: History
    told: int = 0
    rows: dict[int, bytes] = field(default_factory=dict)
    must_diverge: bool = False


@dataclass(slots=True, eq=False)
class History:
    """A session as it must be.

    Attributes:
        tokens: what step i+1 is fed, as far as its owner has said, plus RESET where it starts anew.
        states: the state after i steps.
        owner: who was bound last; only its inputs count from then on.
        newest: who has asked for the session with the highest attach id, and that; it may not lose it.
        bound_by: newest attach id that was bound, by which process, in which epoch, and when.
        kept_attach_id: the one that the store knows, once the session is contested.
        known_attach_id: the one that it knew when it gave the session away last.
        muddled: an older attach has had it again, so its history is not known any more.
        contested: more than one application has asked for it.
        stored: highest seq that the medium has ever had.
        epoch: highest that any activation got.
        used_s: Unix time from which the store counts its idle time.
        rolled_back: the medium has forgotten a part of it.
        expired: it was idle for too long, and was opened anew.
        generating: its owner generates, so that the server may know tokens that nobody has heard.
        closed_s: when an application closed it.
        tracked: the store keeps it.
    """

    id: str
    durability: Durability
    idle_ttl_s: float
    tokens: list[int] = field(default_factory=list)
    states: list[int] = field(default_factory=lambda: [0])
    owner: Writer | None = None
    newest: Writer | None = None
    newest_id: int = 0
    bound_by: tuple[int, object, int, float] = (0, None, 0, 0.0)
    kept_attach_id: int = 0
    known_attach_id: int = 0
    muddled: bool = False
    contested: bool = False
    stored: int = 0
    epoch: int = 0
    used_s: float = 0.0
    rolled_back: bool = False
    expired: bool = False
    generating: bool = False
    closed_s: float | None = None
    tracked: bool = field(init=False)

    def __post_init__(self) -> None:
        self.tracked = self.durability is not Durability.NONE

    def feed(self, seq: int, token: int) -> bool:
        """Step `seq` gets this token; what was said before of it and of later ones does not count.

        False if a step before it is unknown.
        """
        if seq > len(self.tokens) + 1:
            return False
        if seq <= len(self.tokens):
            if self.tokens[seq - 1] == token:
                return True
            self.cut(seq - 1)
        self.tokens.append(token)
        self.states.append(fold(self.states[-1], token))
        return True

    def asked(self, writer: Writer, attach_id: int) -> None:
        """A server is asked to bind it."""
        if attach_id > self.newest_id:
            self.contested |= self.newest not in (None, writer)
            self.newest, self.newest_id = writer, attach_id

    def begins(self) -> None:
        """It is opened, perhaps after it had expired or was forgotten."""
        self.cut(0)
        self.owner, self.stored = None, 0
        self.kept_attach_id = self.known_attach_id = 0
        self.bound_by = (0, None, 0, 0.0)

    def cut(self, applied: int) -> None:
        """Only the first steps count."""
        del self.tokens[applied:]
        del self.states[applied + 1 :]
