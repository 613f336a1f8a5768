"""The demo's clients at work on a client that is a few lines of Python."""

import itertools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from carousel.cli.demo import crew
from carousel.cli.demo.crew import python_files, sunspot_rows
from carousel.cli.demo.plan import CREWS, Role
from carousel.cli.demo.tally import Tally


class FakeClient:
    """Answers `calls` calls, then has the tally stop the work."""

    def __init__(self, tally, calls, error=None):
        self.tally, self.left, self.error, self.seen = tally, calls, error, []

    def _call(self, what):
        self.seen.append(what)
        self.left -= 1
        if self.error and self.left == 0:
            raise self.error
        if self.left <= 0:
            self.tally.stop.set()

    def generate(self, model, prompt, **settings):
        self._call((model, prompt, settings["seed"]))
        return (SimpleNamespace(text=letter) for letter in "abc")

    @contextmanager
    def session(self, model):
        yield SimpleNamespace(step=lambda row: self._call((model, row)))

    def infer(self, model, source):
        self._call((model, source))


def worked(role, calls, number=0, error=None):
    tally = Tally()
    client = FakeClient(tally, calls, error)
    crew.guarded(crew.WORK[role], client, "m", tally, number)
    return client, tally.take()


def test_the_first_writer_is_shown_and_each_text_is_timed_once():
    client, report = worked(Role.GENERATE, calls=3)
    assert (
        report.units == 7
    )  # two texts of three letters, and the letter at which the stop was seen
    assert report.latencies.count == 3
    prompts = [prompt for _, prompt, _ in client.seen]
    assert report.text == f"\n{prompts[0]}abc\n{prompts[1]}abc\n{prompts[2]}a"


def test_other_writers_are_not_shown_and_each_has_seeds_of_its_own():
    first, report = worked(Role.GENERATE, calls=2, number=1)
    second, _ = worked(Role.GENERATE, calls=2, number=2)
    again, _ = worked(Role.GENERATE, calls=2, number=1)
    assert report.text == ""
    assert first.seen == again.seen != second.seen


def test_forecasters_send_measured_rows_from_different_years():
    client, report = worked(Role.STREAM, calls=5, number=2)
    assert [row for _, row in client.seen] == sunspot_rows()[2:7]
    assert report.units == report.latencies.count == 5


def test_taggers_send_whole_files():
    client, report = worked(Role.INFER, calls=3)
    assert [source for _, source in client.seen] == python_files(0)[:3]
    assert report.units == 3


@pytest.mark.parametrize("role", list(Role))
def test_a_failure_is_reported_with_the_client_s_number(role):
    _, report = worked(role, calls=1, number=4, error=RuntimeError("broke"))
    assert report.error == "client 4: broke"


def test_the_data_are_real():
    rows = sunspot_rows()
    assert len(rows) == 309
    assert rows[:3] == [[5.0], [11.0], [16.0]]
    for source in itertools.islice(python_files(1), 5):
        compile(source, "a file", "exec")


def test_the_plan_is_dozens_of_clients_of_all_roles():
    assert {crew.role for crew in CREWS} == set(Role)
    assert sum(crew.clients for crew in CREWS) >= 48
