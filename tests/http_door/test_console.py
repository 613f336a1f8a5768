"""The console's files: types, caching, policy, the switch, and that every call of its script exists."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from starlette.routing import Match
from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine
from support.link import linked

from carousel_server.http import app
from carousel_server.http.metrics import metrics_object
from carousel_server.http.page import POLICY, assets
from carousel_server.wire import WireOptions, WireServer

FOLDER = files("carousel_server.http").joinpath("console")
TEXTS = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
SCRIPTS = [name for name in TEXTS if name.endswith(".js")]
CALLS = re.findall(r'^  (\w+): "([A-Z]+) (/[^"]*)",$', TEXTS["api.js"], re.MULTILINE)
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
TOKENS = {b"\x01" * 32: "a", b"\x02" * 32: "b"}


def path_of(name):
    return "/" if name == "index.html" else f"/console/{name}"


@pytest.mark.parametrize("name", TEXTS)
async def test_a_file_has_its_type_and_its_headers(door, name):
    reply = await door.http.get(path_of(name))
    assert reply.status_code == 200
    assert reply.text == TEXTS[name]
    assert reply.headers["content-type"].startswith(TYPES[name.rsplit(".", 1)[1]])
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == POLICY
    assert reply.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", ["index.html", "main.js"])
async def test_a_copy_that_is_the_newest_is_not_sent_again(door, name):
    reply = await door.http.get(path_of(name))
    assert reply.headers["cache-control"] == "no-cache"
    for known in (reply.headers["etag"], f'"old", W/{reply.headers["etag"]}'):
        again = await door.http.get(path_of(name), headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == reply.headers["etag"]
    other = await door.http.get(path_of(name), headers={"if-none-match": '"old"'})
    assert other.status_code == 200


async def test_head_has_no_body_and_other_verbs_are_refused(door):
    head = await door.http.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert (await door.http.post("/")).status_code == 405


async def test_the_switch_turns_all_files_off(start_doors):
    door = await start_doors(console=False)
    for name in TEXTS:
        assert (await door.http.get(path_of(name))).status_code == 404
    assert (await door.http.get("/api/models")).status_code == 200


@pytest.mark.parametrize(
    "path", ["/console/", "/console/nothing.js", "/console/../page.py", "/console/%2e%2e/page.py"]
)
async def test_nothing_else_is_served(door, path):
    assert (await door.http.get(path)).status_code == 404


async def test_the_page_needs_no_token_and_its_data_does(start_doors):
    door = await start_doors(tokens=TOKENS)
    assert (await door.http.get("/")).status_code == 200
    assert (await door.http.get("/api/metrics")).json()["reason"] == "TOKEN_INVALID"


def test_the_policy_allows_only_this_server():
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert set(rules.values()) == {"'none'", "'self'"}


@pytest.mark.parametrize("name", TEXTS)
def test_no_file_loads_from_elsewhere_or_breaks_the_policy(name):
    text = TEXTS[name].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\(", text)
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)


def test_all_files_that_the_page_and_its_scripts_name_are_there():
    named = set(re.findall(r'(?:href|src)="(/[^"]*)"', TEXTS["index.html"]))
    for script in SCRIPTS:
        named |= {f"/console/{n}" for n in re.findall(r'from "\./([^"]+)"', TEXTS[script])}
    assert named | {"/"} == set(map(path_of, assets())) == set(map(path_of, TEXTS))


def test_all_elements_that_the_scripts_name_are_on_the_page():
    known = set(re.findall(r'id="([^"]+)"', TEXTS["index.html"]))
    named = {n for s in SCRIPTS for n in re.findall(r'\bat\("([^"]+)"\)', TEXTS[s])}
    assert named
    assert named <= known


def test_every_field_has_a_label():
    page = TEXTS["index.html"]
    fields = re.findall(r'<(?:input|select)[^>]*\bid="([^"]+)"', page)
    assert len(fields) >= 8
    assert set(fields) == set(re.findall(r'<label [^>]*\bfor="([^"]+)"', page))


@pytest.mark.parametrize(("name", "verb", "path"), CALLS, ids=[name for name, *_ in CALLS])
async def test_every_call_of_the_script_has_a_route(name, verb, path):
    wire = WireServer(FakeCatalog(FakeEngine()), WireOptions(http_port=0), CountingMetrics())
    scope = {"type": "http", "method": verb, "path": path.replace("{", "").replace("}", "")}
    matches = [route.matches(scope)[0] for route in app.application(wire).routes]
    assert matches.count(Match.FULL) == 1, name


def test_scripts_make_calls_of_that_table_only():
    names = {name for name, *_ in CALLS}
    assert names
    used = set()
    for script in SCRIPTS:
        text = TEXTS[script]
        assert text.count("fetch(") == (1 if script == "api.js" else 0)
        assert script == "api.js" or not re.search(r"[\"'`]/(api|v1|v2)/", text)
        used |= set(re.findall(r'\b(?:call|events)\("(\w+)"', text))
    assert used == names


async def test_the_numbers_of_a_server_with_one_tenant(door):
    reply = await door.http.get("/api/metrics")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.json() == {
        "scope": "server",
        "at_s": 1.5,
        "models": {
            "echo": {"healthy": True, "carousel_steps_total": 7.0},
            "echo-tokens": {"healthy": True},
        },
    }


def test_a_tenant_among_others_gets_its_own_numbers_or_none():
    readings = CountingMetrics().readings().result()
    for tenant, steps in (("a", {"carousel_steps_total": 3.0}), ("b", {})):
        shown = metrics_object(readings, {"echo": False}, tenant)
        assert shown["scope"] == "tenant"
        assert shown["models"] == {"echo": {"healthy": False, **steps}}


async def test_the_door_knows_the_callers_tenant(start_doors):
    from hashlib import sha256

    tokens = {sha256(name.encode()).digest(): name for name in ("a", "b")}
    door = await start_doors(tokens=tokens)
    for tenant, steps in (("a", 3.0), ("b", None)):
        headers = {"authorization": f"Bearer {tenant}"}
        shown = (await door.http.get("/api/metrics", headers=headers)).json()
        assert shown["scope"] == "tenant"
        assert shown["models"]["echo"].get("carousel_steps_total") == steps


async def test_a_front_end_asks_for_the_numbers():
    import asyncio

    async with linked(FakeCatalog(FakeEngine())) as front:
        readings = await asyncio.wrap_future(front.ask("readings"))
    assert readings.models == {"echo": {"carousel_steps_total": 7.0}}
