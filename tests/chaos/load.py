"""Clients at work: threads that drive sessions in all the ways the SDK has, and know nothing of faults."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

import numpy as np
from support.server import GRU_BYTES, LSTM

import carousel
from carousel import RetryPolicy

from .tracks import TOKENS, StepTrack, TextTrack, Track, check_steps, check_texts

PATIENCE_S = 60.0
"""How long clients look for their server, and how long a test waits for a load to go on."""

_PAUSE_S = 0.01
"""Between two rounds of a driver: a load that leaves the machine some room for the rest."""

_AHEAD = 8

RETRIES = RetryPolicy(attempts=100, max_delay_s=2.0, reconnect_s=PATIENCE_S)

Driver = Callable[["Load", carousel.Client, Sequence[Track]], None]


@dataclass(frozen=True)
class Shape:
    """How many sessions are driven in which way.

    Attributes:
        batches, steppers, streamers, texts: threads, each with a client of its own.
        batch_sessions, stepper_sessions: sessions of each of them.
        tasks: sessions that share an event loop.
        batch_steps, task_steps: most steps of a session in one call.
        pause_s: between two rounds of a driver.
        first: number of the first session; numbers give the inputs.
        prefix: of all session ids; empty is a random one.
    """

    batches: int = 2
    batch_sessions: int = 24
    steppers: int = 2
    stepper_sessions: int = 8
    streamers: int = 2
    tasks: int = 16
    texts: int = 2
    batch_steps: int = 4
    task_steps: int = 3
    pause_s: float = _PAUSE_S
    first: int = 0
    prefix: str = ""


FEW = Shape(
    batches=1, batch_sessions=8, steppers=1, stepper_sessions=4, streamers=1, tasks=4, texts=1
)
"""For faults that make everything slow."""


class Load:
    """Sessions under way at `target`, each with outputs that are known. Use as a context manager.

    `statistics` has those of each client, once it has finished.

    Leaving the block without an error finishes the load and checks every output. An error that any
    call of the SDK raises is an error of the test.

    Args:
        target: of the server, or of a proxy before it.
        package: folder of the model LSTM, for the equations.
        quiet: address of an undisturbed server.
        levels: durabilities; the sessions have them in turn.
        shape: how many sessions.
    """

    def __init__(
        self,
        target: str,
        package: Path,
        quiet: str,
        *,
        levels: Sequence[str] = ("async",),
        shape: Shape = Shape(),
    ) -> None:
        self.tracks: list[Track] = []
        self.errors: list[BaseException] = []
        self.statistics: list[carousel.ClientStatistics] = []
        self.target, self._package, self._quiet = target, package, quiet
        self._levels = levels
        self._ended = threading.Event()
        self._news = threading.Condition()
        self._threads: list[threading.Thread] = []
        self.shape = shape
        self._numbers = count(shape.first)
        self._prefix = shape.prefix or secrets.token_hex(4)
        for _ in range(shape.batches):
            self.add(_by_batch, shape.batch_sessions, StepTrack)
        for _ in range(shape.steppers):
            self.add(_by_steps, shape.stepper_sessions, StepTrack)
        for _ in range(shape.streamers):
            self.add(_by_stream, 1, StepTrack)
        if shape.tasks:
            self.add(_by_tasks, shape.tasks, StepTrack)
        for _ in range(shape.texts):
            self.add(_by_texts, 1, TextTrack)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(quietly=kind is not None)
        if kind is None:
            self.check()

    @property
    def steps(self) -> int:
        """Outputs and tokens that have come so far."""
        return sum(track.count for track in self.tracks)

    def advance(self, since_s: float | None = None, rounds: int = 1) -> list[float]:
        """Waits until every session has had another output, `rounds` times.

        Returns:
            For each session the time in seconds from `since_s` (default: now) to its next output, of
            the first round.
        """
        began_s = time.monotonic() if since_s is None else since_s
        took: list[float] = []
        for number in range(rounds):
            times = self._advance()
            if number == 0:
                took = [max(at_s - began_s, 0.0) for at_s in times]
        return took

    def _advance(self) -> list[float]:
        for track in self.tracks:
            track.mark()
        give_up_s = time.monotonic() + PATIENCE_S
        with self._news:
            while True:
                times = [track.next_at_s for track in self.tracks]
                missing = [t.id for t in self.tracks if t.next_at_s is None]
                self._raise_first()
                if not missing:
                    return [at_s for at_s in times if at_s is not None]
                left_s = give_up_s - time.monotonic()
                assert left_s > 0, f"{len(missing)} sessions stand still, such as {missing[:5]}"
                self._news.wait(min(left_s, 1.0))

    def finish(self, *, quietly: bool = False) -> None:
        """Lets every driver finish what it is at, and compare its cursors with the server's."""
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert quietly or not thread.is_alive(), f"{thread.name} hangs"
        if not quietly:
            self._raise_first()

    def check(self) -> None:
        """Every output of every session."""
        stepped = [track for track in self.tracks if isinstance(track, StepTrack)]
        if stepped:
            check_steps(stepped, self._package, self._quiet)
        check_texts([t for t in self.tracks if isinstance(t, TextTrack)], self._quiet)

    # -- for drivers

    def goes_on(self) -> bool:
        """Pauses a little; False once the load is to end."""
        return not self._ended.wait(self.shape.pause_s)

    @property
    def ended(self) -> bool:
        """The load is to end."""
        return self._ended.is_set()

    def got(self, track: Track, part: Sequence[object] | np.ndarray) -> None:
        """These outputs have come."""
        track.got(part)
        with self._news:
            self._news.notify_all()

    def add(self, driver: Driver, sessions: int, kind: type[Track]) -> None:
        """A thread that drives so many new sessions; to be called before the load starts."""
        numbers = [next(self._numbers) for _ in range(sessions)]
        tracks: list[Track] = [
            kind(
                f"{self._prefix}-{n}",
                self._levels[n % len(self._levels)],
                seed=n,
                resets=n // len(self._levels) % 2 == 1,  # with each level and without
                driver=_name(driver),
            )
            for n in numbers
        ]
        self.tracks += tracks
        name = f"{_name(driver)}-{len(self._threads)}"
        thread = threading.Thread(target=self._drive, args=(driver, tracks), name=name, daemon=True)
        self._threads.append(thread)

    def _drive(self, driver: Driver, tracks: Sequence[Track]) -> None:
        try:
            with carousel.Client(self.target, timeout_s=PATIENCE_S, retries=RETRIES) as client:
                driver(self, client, tracks)
                self.statistics.append(client.statistics())
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.errors.append(error)
            with self._news:
                self._news.notify_all()

    def _raise_first(self) -> None:
        if self.errors:
            text = f"{len(self.errors)} drivers failed; the first by {self.errors[0]!r}"
            raise AssertionError(text) from self.errors[0]


def _name(driver: Driver) -> str:
    return driver.__name__.removeprefix("_")


def _opened(client: carousel.Client, model: str, tracks: Sequence[Track]) -> list[carousel.Session]:
    return [client.session(model, session_id=t.id, durability=t.durability) for t in tracks]


def _closed(sessions: Sequence[carousel.Session], tracks: Sequence[Track]) -> None:
    """The server has applied what was sent, and nothing twice."""
    for session, track in zip(sessions, tracks, strict=True):
        applied = session.info().applied
        assert applied == track.count, f"{track.id}: {track.count} outputs, but applied {applied}"
        session.close()


def _by_batch(load: Load, client: carousel.Client, tracks: Sequence[StepTrack]) -> None:
    """All sessions in one message, 1 to 4 steps of each."""
    sessions = _opened(client, LSTM, tracks)
    batch = client.batch(sessions)
    while load.goes_on():
        steps = 1 + tracks[0].count % load.shape.batch_steps
        rows = np.stack([t.rows(t.count, steps) for t in tracks])
        resets = np.stack([t.begins(t.count, steps) for t in tracks])
        for track in tracks:
            track.asks(steps)
        outputs = batch.steps(rows, resets=resets)
        for track, part in zip(tracks, outputs, strict=True):
            load.got(track, part)
    _closed(sessions, tracks)


def _by_steps(load: Load, client: carousel.Client, tracks: Sequence[StepTrack]) -> None:
    """One session after the other, now a step, now several."""
    sessions = _opened(client, LSTM, tracks)
    while load.goes_on():
        for session, track in zip(sessions, tracks, strict=True):
            steps = 1 + track.count % 3
            begins = track.begins(track.count, steps)
            track.asks(steps)
            if begins[0]:
                session.reset()
            if steps == 1:
                load.got(track, session.step(track.rows(track.count, 1)[0])[None])
            else:
                load.got(track, session.steps(track.rows(track.count, steps), resets=begins))
    _closed(sessions, tracks)


def _by_stream(load: Load, client: carousel.Client, tracks: Sequence[StepTrack]) -> None:
    """Steps sent ahead of their outputs."""

    def source(track: StepTrack) -> Iterator[np.ndarray]:
        at = 0
        while load.goes_on():
            if track.begins(at, 1)[0]:
                session.reset()
            track.asks(1)
            yield track.rows(at, 1)[0]
            at += 1

    (session,), (track,) = _opened(client, LSTM, tracks), tracks
    for output in session.stream(source(track), ahead=_AHEAD):
        load.got(track, output[None])
    _closed([session], tracks)


def _by_tasks(load: Load, _client: carousel.Client, tracks: Sequence[StepTrack]) -> None:
    """Each session in a task of its own, all in one event loop."""

    async def drive(client: carousel.AsyncClient, track: StepTrack) -> None:
        session = await client.session(LSTM, session_id=track.id, durability=track.durability)
        while not load.ended:
            await asyncio.sleep(load.shape.pause_s)
            steps = 1 + track.count % load.shape.task_steps
            rows, begins = track.rows(track.count, steps), track.begins(track.count, steps)
            track.asks(steps)
            load.got(track, await session.steps(rows, resets=begins))
        applied = (await session.info()).applied
        assert applied == track.count, f"{track.id}: {track.count} outputs, but applied {applied}"
        await session.close()

    async def drive_all() -> None:
        async with carousel.AsyncClient(
            load.target, timeout_s=PATIENCE_S, retries=RETRIES
        ) as client:
            await asyncio.gather(*(drive(client, track) for track in tracks))
            load.statistics.append(client.statistics())

    asyncio.run(drive_all())


def _by_texts(load: Load, client: carousel.Client, tracks: Sequence[TextTrack]) -> None:
    """Text after text in one session, each token as it comes."""
    (session,), (track,) = _opened(client, GRU_BYTES, tracks), tracks
    number = 0
    while load.goes_on():
        track.texts.append([])
        if track.begins(number):
            session.reset()
        track.asks(TOKENS)
        for token in session.generate(**track.arguments(number)):
            load.got(track, [token.id])
        number += 1
    session.close()
