"""The jobs application in a real browser, served by a real pserve."""

from __future__ import annotations

import importlib
import json
import re
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from stargate_tests.serving import DEADLINE, JOBS

pytestmark = pytest.mark.browser


@pytest.fixture
def server(pserve):
    """The running application; what its log must not have in it is looked for at the end."""
    server = pserve()
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log
    assert " ERROR " not in server.log


@pytest.fixture
def windows(server, window):
    """Two visitors of one job, both connected; neither may have met an error at the end."""
    pages = [window(f"{server.url}/jobs/demo") for _ in range(2)]
    for page in pages:
        expect_connected(page)
    yield pages
    assert [page.errors for page in pages] == [[], []]


def post(url: str, body: bytes = b"") -> int:
    with urlopen(Request(url, body, method="POST"), timeout=DEADLINE) as answer:
        return answer.status


def expect_connected(page: Page) -> None:
    expect(page.locator("#connection")).to_have_text("Connected")


def expect_reloaded(page: Page) -> None:
    expect(page.locator("#connection")).to_have_text("Connected, state reloaded")


def expect_state(page: Page, state: str) -> None:
    expect(page.locator("#state")).to_have_text(state)
    pressed = page.get_by_role("button", pressed=True)
    expect(pressed).to_have_text(re.compile(f"^{state}$", re.IGNORECASE))


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_a_click_in_one_window_changes_both(windows):
    first, second = windows
    press(first, "On")
    for page in windows:
        expect_state(page, "on")
        expect(page.locator("#log li").first).to_contain_text("switched on")
    press(second, "Off")
    for page in windows:
        expect_state(page, "off")
        expect(page.locator("#log li")).to_have_count(2)


def test_a_post_from_outside_changes_both(server, windows):
    for page in windows:
        expect_state(page, "off")
    assert post(f"{server.url}/jobs/demo", b"state=on") == 204
    for page in windows:
        expect_state(page, "on")


def test_a_reload_keeps_the_state_and_the_log(windows):
    first, second = windows
    press(first, "On")
    expect_state(second, "on")
    second.reload()
    expect_connected(second)
    expect_state(second, "on")
    expect(second.locator("#log li")).to_have_count(1)


def test_each_window_shows_how_many_are_watching(server, windows, window):
    for page in windows:
        expect(page.locator("#watching")).to_have_text("2 watching now")
    third = window(f"{server.url}/jobs/demo")
    for page in (*windows, third):
        expect(page.locator("#watching")).to_have_text("3 watching now")
    third.close()
    for page in windows:
        expect(page.locator("#watching")).to_have_text("2 watching now")


def test_a_run_shows_its_progress_in_both(windows):
    press(windows[0], "Run")
    for page in windows:
        expect(page.locator("#progress")).to_have_text(re.compile(r"^\d+ %$"))
        expect(page.locator("#run")).to_be_disabled()
    for page in windows:
        expect(page.locator("#progress")).to_have_text("ran to 100 %")
        expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
        expect(page.locator("#log li").first).to_contain_text("run finished")
        expect(page.locator("#run")).to_be_enabled()


def test_the_list_follows_every_job(server, windows, window):
    jobs = window(f"{server.url}/")
    expect_connected(jobs)
    expect(jobs.locator("#jobs li")).to_have_count(1)
    press(windows[0], "On")
    expect(jobs.locator("#jobs li .how")).to_have_text("on")
    jobs.get_by_label("Name of a job").fill("<img src=x>")
    press(jobs, "Open job")
    expect(jobs.locator("#name")).to_have_text("<img src=x>")
    jobs.get_by_role("link", name="Jobs").click()
    expect(jobs.locator("#jobs .name")).to_have_text(["<img src=x>", "demo"])
    assert jobs.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_palettes(server, window, scheme):
    size = {"width": 360, "height": 740}
    page = window(f"{server.url}/jobs/{'long' * 10}", viewport=size, color_scheme=scheme)
    expect_connected(page)
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert page.errors == []


def test_the_list_forgets_what_went_with_a_server(pserve, window):
    server = pserve()
    jobs = window(f"{server.url}/jobs")
    for name in ("one", "two"):
        post(f"{server.url}/jobs/{name}", b"state=on")
    expect(jobs.locator("#jobs .name")).to_have_text(["one", "two"])
    server.stop()
    expect(jobs.locator("#connection")).to_contain_text("Reconnecting")
    again = pserve(server.port)
    expect_reloaded(jobs)
    expect(jobs.locator("#jobs li")).to_have_count(0)
    post(f"{again.url}/jobs/three", b"state=on")
    expect(jobs.locator("#jobs .name")).to_have_text(["three"])


def test_the_page_reconnects_by_itself_when_the_server_is_back(pserve, window):
    server = pserve()
    page = window(f"{server.url}/jobs/demo")
    expect_connected(page)
    press(page, "On")
    expect_state(page, "on")
    assert server.stop() == 0
    expect(page.locator("#connection")).to_contain_text("Reconnecting")
    expect(page.get_by_role("button", name="Off", exact=True)).to_be_disabled()
    again = pserve(server.port)
    expect_reloaded(page)
    expect_state(page, "off")  # Jobs live as long as their process.
    expect(page.locator("#log li")).to_have_count(0)
    assert post(f"{again.url}/jobs/demo", b"state=on") == 204
    expect_state(page, "on")
    # The browser itself says so when nobody answers at the address; the page says nothing.
    assert [error for error in page.errors if "ERR_CONNECTION_REFUSED" not in error] == []
    assert again.stop() == 0
    assert "Traceback" not in server.log + again.log


# Coming back: the same application, in a thread of this process, so that a test can cut.


@pytest.fixture
def live(live_server, monkeypatch):
    monkeypatch.syspath_prepend(JOBS)
    return live_server(importlib.import_module("jobs").main({}))


@pytest.fixture
def jobs(live):
    return live.application.root_factory(None)["jobs"]


@pytest.fixture
def page(live, jobs, window):
    """A page that has seen one message, and so has an id to come back with."""
    page = window(f"{live.url}/jobs/demo")
    expect_connected(page)
    jobs["demo"].control("off")
    expect(page.locator("#log li")).to_have_count(1)
    yield page
    assert page.errors == []


def while_cut(live, resource, change) -> None:
    """Cut off whoever listens to ``resource``, and call ``change()`` before anybody is back."""

    def cut():
        for websocket in live.gate.listeners(resource):
            websocket._lose()
        change()

    live.server.engine.ask_from_thread(cut)


def hear(page: Page) -> list[dict]:
    """What the page's WebSockets receive from its next one on, as it comes."""
    heard = []

    def listen(websocket):
        websocket.on("framereceived", lambda frame: heard.append(json.loads(frame)))

    page.on("websocket", listen)
    return heard


def test_a_page_that_was_cut_off_shows_what_it_missed_once(live, jobs, page):
    heard = hear(page)
    changes = ["on", "off", "on"]
    while_cut(live, jobs["demo"], lambda: [jobs["demo"].control(each) for each in changes])
    shown = ["switched on", "switched off", "switched on", "switched off"]  # The newest first.
    expect(page.locator("#log li")).to_contain_text(shown)
    expect_connected(page)
    expect_state(page, "on")
    jobs["demo"].control("off")
    expect_state(page, "off")
    expect(page.locator("#log li")).to_have_count(5)
    ids = [each["id"] for each in heard if "data" in each]
    assert len(ids) == len(set(ids)), "a message has come twice"
    assert [each["recovered"] for each in heard if "recovered" in each] == [True]


def test_a_page_that_comes_back_too_late_shows_the_present_state(live, jobs, page):
    heard = hear(page)
    jobs["demo"].history_size = 1
    while_cut(live, jobs["demo"], lambda: [jobs["demo"].control("on") for _ in range(3)])
    expect_reloaded(page)
    expect_state(page, "on")
    expect(page.locator("#log li")).to_have_count(4)
    expect(page.get_by_role("button", name="Off", exact=True)).to_be_enabled()
    assert heard[0]["recovered"] is False
    jobs["demo"].history_size = 100
    jobs["demo"].control("off")
    expect(page.locator("#log li")).to_have_count(5)
    while_cut(live, jobs["demo"], lambda: jobs["demo"].control("on"))
    expect(page.locator("#log li")).to_have_count(6)
    expect_connected(page)  # This time all of it was there.


def test_a_page_begins_anew_when_the_server_itself_has_missed_something(live, jobs, page):
    def miss():
        jobs["demo"].log = [{"time": 0, "event": "unheard of"}]
        live.gate._delivery.interrupted(jobs["demo"].path, False, "there")
        jobs["demo"].report("heard too late")

    live.server.engine.ask_from_thread(miss)
    expect_reloaded(page)
    expect(page.locator("#log li")).to_contain_text(["heard too late", "unheard of"])


def test_the_list_shows_what_it_missed_and_keeps_the_others(live, jobs, window):
    jobs["one"].control("on")
    page = window(f"{live.url}/jobs")
    expect(page.locator("#jobs .name")).to_have_text(["one"])
    jobs["two"].control("on")
    expect(page.locator("#jobs .name")).to_have_text(["one", "two"])
    while_cut(live, jobs, lambda: jobs["three"].control("on"))
    expect(page.locator("#jobs .name")).to_have_text(["one", "three", "two"])
    expect_connected(page)
    assert page.errors == []
