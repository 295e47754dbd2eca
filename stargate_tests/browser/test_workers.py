"""The jobs application in a real browser, served by two workers of a real gunicorn."""

import pytest
from playwright.sync_api import expect

from stargate_tests.browser.test_jobs import expect_connected, expect_state, press
from stargate_tests.gunicorns import jobs_in_two_workers

pytestmark = pytest.mark.browser


def test_pages_on_two_workers_see_each_others_changes(window, tmp_path, redis_server, namespace):
    with jobs_in_two_workers(tmp_path, redis_server.url, namespace) as server:
        pages, pids = [], server.workers(2)
        for each in pids:
            with server.only(each, pids):
                page = window(f"{server.url}/jobs/demo")
                expect_connected(page)
                pages.append(page)
        opened = [line for line in server.log.splitlines() if '/jobs/demo HTTP/1.1" 101' in line]
        assert [str(pid) in line for pid, line in zip(pids, opened, strict=True)] == [True, True]
        first, second = pages
        press(first, "On")
        for page in pages:
            expect(page.locator("#log li").first).to_contain_text("switched on")
        press(second, "Off")
        for page in pages:
            expect(page.locator("#log li").first).to_contain_text("switched off")
            expect_state(page, "off")
        assert [page.errors for page in pages] == [[], []]
    assert "Traceback" not in server.log
    assert " ERROR " not in server.log
