"""The console in headless Chromium, on a real server: what a person sees and can do."""

from __future__ import annotations

import hashlib
import json

import httpx
import pytest
from support.browser import CHROMIUM, Browser
from support.server import GRU_BYTES, LSTM, ServerProcess

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)"),
    pytest.mark.timeout(400),
]

TOKENS = json.dumps({n: hashlib.sha256(n.encode()).hexdigest() for n in ("mine", "other")})
ROWS = "document.querySelectorAll('#{}-table tbody tr').length"


@pytest.fixture(scope="module")
def server(models_dir):
    with ServerProcess(models_dir, http_port=0) as process:
        yield process


@pytest.fixture(scope="module")
def guarded(models_dir):
    with ServerProcess(models_dir, http_port=0, tokens=TOKENS) as process:
        yield process


@pytest.fixture
def browser():
    with Browser() as browser:
        yield browser


def element(name):
    return f"document.getElementById({name!r})"


def choose(browser, name, value):
    browser.run(f"{element(name)}.value = {value!r}")
    browser.run(f"{element(name)}.dispatchEvent(new Event('change', {{bubbles: true}}))")


def loaded(browser, server, **view):
    browser.open(f"{server.http_url}/", **view)
    browser.wait(f"{ROWS.format('models')} === 3 && {element('play-model')}.value")


def sessions_of(server):
    return httpx.get(f"{server.http_url}/api/sessions", timeout=60).json()["sessions"]


def test_the_models_and_their_health(browser, server):
    loaded(browser, server)
    text = browser.run(f"{element('models-table')}.innerText")
    assert all(name in text for name in server.models)
    assert text.count("Healthy") == 3
    assert browser.run(f"{element('status')}.innerText").strip() == "Connected"
    assert browser.complaints == []


def test_a_sine_runs_and_outputs_and_state_are_drawn(browser, server):
    loaded(browser, server)
    choose(browser, "play-model", LSTM)
    browser.run(f"{element('play-run')}.click()")
    browser.wait("/, [0-9]{1,}[0-9] steps/.test(document.getElementById('play-session').innerText)")
    browser.run(f"{element('play-run')}.click()")
    labels = browser.run(
        "[...document.querySelectorAll('#heats canvas')].map(one => one.getAttribute('aria-label'))"
    )
    assert [label.split(",")[0] for label in labels] == ["h", "c"]
    assert all("16 units" in label for label in labels)
    drawn = "[...document.querySelectorAll('#play-out path')].map(one => one.getAttribute('d'))"
    lines = browser.run(drawn)
    assert len(lines) == 3
    assert all(line.count("L") >= 8 for line in lines)
    colours = browser.run(
        "new Set(document.querySelector('#heats canvas').getContext('2d')"
        ".getImageData(0, 0, 96, 16).data).size"
    )
    assert colours > 8
    assert browser.run(f"{element('play-problem')}.hidden")
    assert browser.complaints == []


def test_the_state_is_read_by_keys(browser, server):
    loaded(browser, server)
    choose(browser, "play-model", LSTM)
    browser.run(f"{element('play-once')}.click()")
    browser.wait("document.querySelectorAll('#heats canvas').length === 2")
    browser.wait(
        "document.querySelector('#heats canvas').getAttribute('aria-label').includes('to 1')"
    )
    browser.run("document.querySelector('#heats canvas').focus()")
    browser.press("ArrowUp")
    assert browser.run("document.querySelector('#heats output').innerText").startswith(
        "step 1, unit 0: "
    )


def test_a_model_writes_text_step_by_step(browser, server):
    loaded(browser, server)
    choose(browser, "play-model", GRU_BYTES)
    browser.run(f"{element('play-row')}.value = 'ab'")
    browser.run(f"{element('play-run')}.click()")
    browser.wait("document.querySelector('#play-text').lastElementChild.textContent.length > 3")
    assert browser.run("document.querySelector('#play-text').firstElementChild.textContent") == "ab"
    assert browser.complaints == []


def test_tokens_are_shown_as_they_come(browser, server):
    loaded(browser, server)
    choose(browser, "play-model", GRU_BYTES)
    choose(browser, "play-signal", "stream")
    browser.run(f"{element('play-row')}.value = 'ab'")
    browser.run(f"{element('play-run')}.click()")
    browser.wait("document.querySelector('#play-text').lastElementChild.textContent.length > 3")
    assert browser.run("document.querySelector('#play-text').firstElementChild.textContent") == "ab"
    browser.wait(f"{element('play-run')}.innerText === 'Run'")
    assert browser.run(f"{element('play-problem')}.hidden")
    assert browser.run(f"{element('play-session')}.innerText").endswith(" steps")
    assert browser.complaints == []


def test_a_generation_is_stopped(browser, server):
    loaded(browser, server)
    choose(browser, "play-model", GRU_BYTES)
    choose(browser, "play-signal", "stream")
    browser.run(f"{element('play-run')}.click()")
    browser.wait("document.querySelector('#play-text').lastElementChild.textContent.length > 0")
    browser.run(f"{element('play-run')}.innerText === 'Stop' && {element('play-run')}.click()")
    browser.wait(f"{element('play-run')}.innerText === 'Run'")
    assert browser.run(f"{element('play-problem')}.hidden")


def test_a_bad_row_is_a_problem_that_says_what_to_do(browser, server):
    loaded(browser, server)
    choose(browser, "play-model", LSTM)
    choose(browser, "play-signal", "row")
    browser.run(f"{element('play-row')}.value = '1 2'")
    browser.run(f"{element('play-once')}.click()")
    browser.wait(f"!{element('play-problem')}.hidden")
    assert "needs 4 numbers" in browser.run(f"{element('play-problem')}.innerText")
    browser.run(f"{element('play-row')}.value = '1, 2, 3, 4'")
    browser.run(f"{element('play-once')}.click()")
    browser.wait(f"{element('play-problem')}.hidden")


def test_sessions_are_listed_and_closed_at_the_second_press(browser, server):
    opened = httpx.post(
        f"{server.http_url}/api/models/{LSTM}/sessions", json={"session_id": "to-close"}, timeout=60
    )
    assert opened.status_code == 201
    loaded(browser, server)
    button = "document.querySelector('[aria-label*=\"to-close\"]')"
    browser.wait(f"{element('sessions-table')}.innerText.includes('to-close') && {button} !== null")
    browser.run(f"{button}.click()")
    assert "Press again" in browser.run(f"{button}.getAttribute('aria-label')")
    assert "to-close" in {one["id"] for one in sessions_of(server)}
    browser.run(f"{button}.click()")
    browser.wait(f"!{element('sessions-table')}.innerText.includes('to-close')")
    assert "to-close" not in {one["id"] for one in sessions_of(server)}


def test_a_page_that_is_left_closes_its_session(browser, server):
    loaded(browser, server)
    before = len(sessions_of(server))
    browser.run(f"{element('play-once')}.click()")
    browser.wait("document.getElementById('play-session').innerText !== ''")
    assert len(sessions_of(server)) == before + 1
    browser.open("about:blank")
    httpx_client = httpx.Client(base_url=server.http_url, timeout=60)
    with httpx_client:
        for _ in range(600):
            if len(httpx_client.get("/api/sessions").json()["sessions"]) == before:
                return
            browser.run("new Promise(done => setTimeout(done, 100))")
    pytest.fail("the session was not closed")


def test_percentiles_are_interpolated_between_two_readings(browser, server):
    loaded(browser, server)
    script = """import('/console/live.js').then(({ percentile }) => {
      const at = (...counts) => ({ bounds: [1, 2, 4], counts });
      const none = at(5, 5, 5, 5);
      return [percentile(at(0, 0, 0, 0), at(0, 10, 10, 10), 0.5), percentile(none, at(5, 5, 5, 6), 0.5),
        Number.isNaN(percentile(none, none, 0.99)), percentile(at(1, 1, 1, 1), at(1, 1, 5, 5), 0.25)];
    })"""
    assert browser.run(script) == [1.5, 4, True, 2.5]


def test_live_charts_follow_the_metrics(browser, server):
    loaded(browser, server)
    browser.run(f"{element('play-run')}.click()")
    labels = (
        "[...document.querySelectorAll('#charts svg')].map(one => one.getAttribute('aria-label'))"
    )
    browser.wait(f"/Steps: now [1-9]/.test({labels}.join('|'))")
    told = browser.wait(f"/p50 [0-9.]+ ms; p99 [0-9.]+ ms/.test({labels}.join('|')) && {labels}")
    assert len(told) == 6
    assert any(label.startswith("Sessions: now ") and label.endswith(" resident") for label in told)


def test_a_token_is_asked_for_and_kept_for_the_tab(browser, guarded):
    browser.open(f"{guarded.http_url}/")
    browser.wait(f"{element('token-dialog')}.open")
    assert "Token needed" in browser.run(f"{element('status')}.innerText")
    browser.run(f"{element('token')}.value = 'mine'")
    browser.run(f"{element('token')}.focus()")
    browser.press("Enter")
    browser.wait(f"{ROWS.format('models')} === 3")
    assert browser.run("sessionStorage.getItem('carousel-token')") == "mine"
    assert browser.run("localStorage.length + document.cookie.length") == 0
    browser.wait("document.getElementById('live-scope').innerText.startsWith('Your own')")
    shown = "[...document.querySelectorAll('#charts figure')].filter(one => !one.hidden).length"
    assert browser.run(shown) == 2  # its own steps and sessions; the others are of the whole server


def test_a_wrong_token_is_said(browser, guarded):
    browser.open(f"{guarded.http_url}/")
    browser.run("sessionStorage.setItem('carousel-token', 'wrong')")
    browser.open(f"{guarded.http_url}/?again")
    browser.wait(f"{element('status')}.innerText.includes('Token refused')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_and_can_be_read(browser, server, width, dark):
    loaded(browser, server, width=width, dark=dark)
    browser.run(f"{element('play-once')}.click()")
    browser.wait("document.querySelectorAll('#heats canvas').length > 0")
    assert browser.run("document.documentElement.scrollWidth") <= width
    outside = browser.run(
        "[...document.querySelectorAll('main *, header *')].filter(one => !one.closest('svg, .flush')"
        " && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"
    )
    assert outside == []
    contrasts = browser.run(CONTRASTS)
    assert min(contrasts.values()) >= 4.5, contrasts


CONTRASTS = """(() => {
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const style = getComputedStyle(document.documentElement);
  const light = name => {
    const text = style.getPropertyValue(name).trim();
    const parts = [1, 3, 5].map(start => linear(parseInt(text.slice(start, start + 2), 16) / 255));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const of = (a, b) => {
    const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  return {
    text: of('--ink', '--ground'), card: of('--ink', '--card'), soft: of('--soft', '--ground'),
    softCard: of('--soft', '--card'), button: of('--on-accent', '--accent'),
    bad: of('--bad', '--bad-ground'), badCard: of('--bad', '--card'),
  };
})()"""


def test_the_keyboard_reaches_everything_and_the_focus_is_seen(browser, server):
    loaded(browser, server)
    seen = []
    for _ in range(14):
        browser.press("Tab")
        seen.append(
            browser.run("document.activeElement.id || document.activeElement.textContent.trim()")
        )
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", seen
    assert seen[0] == "Skip to content"
    assert seen[1:5] == ["Live", "Playground", "Models", "Sessions"]
    assert {"live-model", "play-model", "play-signal", "play-run", "play-once"} <= set(seen)


def test_nothing_moves_while_it_loads_and_runs(browser, server):
    loaded(browser, server)
    browser.run(
        "window.shifts = 0; new PerformanceObserver(list => list.getEntries().forEach(one => {"
        " if (!one.hadRecentInput) window.shifts += one.value; }))"
        ".observe({type: 'layout-shift', buffered: true})"
    )
    browser.run(f"{element('play-run')}.click()")
    browser.wait("/, [0-9]{1,}[0-9] steps/.test(document.getElementById('play-session').innerText)")
    assert browser.run("window.shifts") < 0.1
