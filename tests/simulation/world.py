"""The simulated world: virtual time, an event queue, one source of chance, processes that die or freeze."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

Action = Callable[..., object]


class Life:
    """One life of a process: from its start until it exits, crashes, or the world ends.

    Events belong to a life. Those of a life that is over never happen; those of a frozen one wait until it
    thaws, as signals and packets wait for a stopped process.
    """

    __slots__ = ("after", "alive", "frozen", "held", "name")

    def __init__(self, name: str, after: Action | None = None) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.held: list[tuple[Action, tuple[Any, ...]]] = []
        # Called after each event of this life: what its threads do about it.
        self.after = after


NATURE = Life("nature")
"""Whom events belong to that are no process's: faults, and packets on their way."""


class Event:
    """Something that will happen, unless it is called off."""

    __slots__ = ("action", "args", "at_s", "life")

    def __init__(self, at_s: float, life: Life, action: Action, args: tuple[Any, ...]) -> None:
        self.at_s = at_s
        self.life = life
        self.action: Action | None = action
        self.args = args

    def call_off(self) -> None:
        """It will not happen."""
        self.action = None


class World:
    """What happens, and when. A seed decides everything that is left to chance.

    Attributes:
        now_s: virtual seconds since the beginning; also every process's monotonic clock.
        rng: where all chance comes from, but for what the streams below decide.
        resets: the chance of resets and of batches that fail. Schedules without them are not changed by it.
        fleets: the chance of all that only schedules with a fleet have.
        machines: the chance of machines that vanish, and of replicas that commit late.
        prompts: the chance of prompts that take long to become tokens.
        threads: the chance of threads that are stopped.
        trace: what happened, line by line, if `tracing`.
    """

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.now_s = 0.0
        self.rng = random.Random(seed)
        self.resets = random.Random(f"resets {seed}")
        self.fleets = random.Random(f"fleets {seed}")
        self.machines = random.Random(f"machines {seed}")
        self.prompts = random.Random(f"prompts {seed}")
        self.threads = random.Random(f"threads {seed}")
        self.tracing = tracing
        self.trace: list[str] = []
        self.events = 0
        # By instant, then by order of asking.
        self._queue: list[tuple[float, int, Event]] = []
        self._order = 0

    def clock(self) -> float:
        """Monotonic seconds."""
        return self.now_s

    def wall(self) -> float:
        """Unix seconds."""
        return 1.7e9 + self.now_s

    def note(self, who: str, *what: object) -> None:
        """Writes a line of the trace."""
        if self.tracing:
            self.trace.append(f"{self.now_s:9.4f}  {who:<9} {' '.join(map(str, what))}")

    def call(self, delay_s: float, life: Life, action: Action, *args: Any) -> Event:
        """Lets something happen later in a process's life."""
        self._order += 1
        event = Event(self.now_s + delay_s, life, action, args)
        heapq.heappush(self._queue, (event.at_s, self._order, event))
        return event

    def step(self) -> bool:
        """The next event; False if there is none."""
        while self._queue:
            event = heapq.heappop(self._queue)[2]
            if event.action is None or not event.life.alive:
                continue
            self.now_s = max(self.now_s, event.at_s)
            if event.life.frozen:
                event.life.held.append((event.action, event.args))
                continue
            self.events += 1
            event.action(*event.args)
            if event.life.after is not None and event.life.alive:
                event.life.after()
            return True
        return False

    def freeze(self, life: Life) -> None:
        """The process stands still (SIGSTOP)."""
        life.frozen = True

    def thaw(self, life: Life) -> None:
        """It goes on (SIGCONT). What waited happens now: in order for each thread or stream, else in any."""
        life.frozen = False
        held, life.held = life.held, []
        turns: dict[int, float] = {}
        for action, _ in held:
            turns.setdefault(_owner(action), self.rng.random())
        for action, args in sorted(held, key=lambda one: turns[_owner(one[0])]):
            self.call(0.0, life, action, *args)

    def end(self, life: Life) -> None:
        """The process is gone, and all that it had in mind."""
        life.alive = False
        life.held.clear()


def _owner(action: Action) -> int:
    """The thread or stream that an action belongs to."""
    return id(getattr(action, "__self__", action))
