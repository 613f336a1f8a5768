"""A little of everything that a server can be asked, round and round, until it is stopped."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable

import numpy as np
from support.server import BILSTM, FEATURES, GRU_BYTES, LSTM

import carousel


class Load:
    """Threads that step, stream, generate, infer, ask over HTTP and are refused.

    Their first error is raised at the end.
    """

    def __init__(self, target: str, http_url: str) -> None:
        self._target = target
        self._http_url = http_url
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        turns = [self._step, self._step, self._stream, self._generate, self._infer, self._refuse]
        turns.append(self._ask)
        self._threads = [threading.Thread(target=self._run, args=(turn,)) for turn in turns]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self, turn: Callable[[carousel.Client], None]) -> None:
        try:
            with carousel.Client(self._target) as client:
                while not self._stop.wait(0.02):
                    turn(client)
        except BaseException as error:  # noqa: BLE001 - raised again where the load ends
            self._errors.append(error)

    def _step(self, client: carousel.Client) -> None:
        with client.session(LSTM) as session:
            for _ in range(20):
                session.step(np.ones(FEATURES, np.float32))

    def _stream(self, client: carousel.Client) -> None:
        with client.session(LSTM) as session:
            for _ in session.stream(np.ones((50, FEATURES), np.float32)):
                if self._stop.is_set():
                    return

    def _generate(self, client: carousel.Client) -> None:
        for _ in client.generate(GRU_BYTES, [1, 2, 3], max_tokens=30, seed=7):
            pass

    def _infer(self, client: carousel.Client) -> None:
        client.infer(BILSTM, np.ones((20, FEATURES), np.float32))

    def _ask(self, _client: carousel.Client) -> None:
        with urllib.request.urlopen(f"{self._http_url}/api/models", timeout=60) as answer:
            assert answer.status == 200

    def _refuse(self, client: carousel.Client) -> None:
        with client.session(LSTM) as session:
            try:
                session.step(np.full(FEATURES, np.nan, np.float32))
            except carousel.CarouselError:
                return
        raise AssertionError("a NaN was accepted")
