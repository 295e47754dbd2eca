"""A real Chromium: the system's, driven by Playwright in the thread of the tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

#: Milliseconds: generous, since only a test that fails waits for it.
DEADLINE = 30_000

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

NOTICE = """
**********************************************************************
** NO CHROMIUM: the browser tests are SKIPPED. Install Chromium from **
** your system's packages, or name one in CHROMIUM=/path/to/chromium **
**********************************************************************
"""


@pytest.fixture(scope="session")
def chromium(request: pytest.FixtureRequest) -> str:
    """The path of a Chromium. Without one: a notice and a skip, or a failure where CI=true."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail("no Chromium for the browser tests, and CI=true", pytrace=False)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(NOTICE, flush=True)
    pytest.skip("NO CHROMIUM")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """The browser, for as long as the tests of one module run."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, headless=True, args=ARGUMENTS
        )
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Callable[[str], Page]]:
    """``window(url)``: a page of a visitor with a profile of their own.

    What a page says in its console that is an error is in ``page.errors``.
    """
    contexts = []
    expect.set_options(timeout=DEADLINE)

    def open_window(url: str, **options) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(DEADLINE)
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
        page.goto(url)
        return page

    yield open_window
    for context in contexts:
        context.close()
