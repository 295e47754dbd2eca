"""The jobs application in a real browser, served by a real pserve."""

from __future__ import annotations

import re
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from stargate_tests.serving import DEADLINE

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
    expect_connected(jobs)
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
    expect_connected(page)
    expect_state(page, "off")  # Jobs live as long as their process.
    expect(page.locator("#log li")).to_have_count(0)
    assert post(f"{again.url}/jobs/demo", b"state=on") == 204
    expect_state(page, "on")
    # The browser itself says so when nobody answers at the address; the page says nothing.
    assert [error for error in page.errors if "ERR_CONNECTION_REFUSED" not in error] == []
    assert again.stop() == 0
    assert "Traceback" not in server.log + again.log
