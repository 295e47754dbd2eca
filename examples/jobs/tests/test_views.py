"""The application as its visitors meet it, on a live server: pages, POST and WebSockets."""

import json
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from pyramid.testing import DummyRequest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from jobs import main
from jobs.resources import Jobs, Root
from jobs.views import JobSocket, JobsSocket
from stargate.testing import FakeWebSocket
from stargate_tests.waiting import wait_until

DEADLINE = 30


@pytest.fixture
def server(no_application, live_server):
    return live_server(main({}))


@pytest.fixture
def jobs(server):
    """The jobs that the server serves."""
    return server.application.root_factory(None)["jobs"]


def ask(server, path, *, method="GET", **fields):
    """The status, the headers and the text of an answer, whatever it is."""
    data = urlencode(fields).encode() if method == "POST" else None
    try:
        with urlopen(Request(server.url + path, data, method=method), timeout=DEADLINE) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.status, error.headers, error.read().decode()


def status(server, path, **options):
    return ask(server, path, **options)[0]


def watch(server, path):
    url = server.websocket_url(path)
    return connect(url, subprotocols=["stargate.v1"], open_timeout=DEADLINE)


def receive(client):
    """The next object, with its id."""
    return json.loads(client.recv(timeout=DEADLINE))


def hear(client, fits=lambda message: True):
    """The next message that fits; those before it are passed over."""
    while True:
        message = receive(client)["data"]
        if fits(message):
            return message


def test_a_page_and_a_websocket_share_one_url(server):
    code, headers, text = ask(server, "/jobs/demo")
    assert (code, headers.get_content_type()) == (200, "text/html")
    assert "/static/job.js" in text
    with watch(server, "/jobs/demo") as client:
        assert hear(client)["name"] == "demo"


def test_the_list_has_a_page_and_a_websocket_too(server):
    assert "/static/jobs.js" in ask(server, "/jobs")[2]
    assert ask(server, "/")[2] == ask(server, "/jobs/")[2]
    ask(server, "/jobs/one")
    with watch(server, "/jobs") as client:
        assert [job["name"] for job in hear(client)] == ["one"]
        ask(server, "/jobs/two", method="POST", state="on")
        [job] = hear(client)
        assert (job["name"], job["state"]) == ("two", "on")


@pytest.mark.parametrize(
    "name", ["job.js", "jobs.js", "live.js", "jobs.css", "gate.svg", "eye.svg"]
)
def test_what_the_pages_need_is_served_and_never_stale(server, name):
    code, headers, _text = ask(server, f"/static/{name}")
    assert code == 200
    assert "no-cache" in headers["Cache-Control"]


def test_a_post_reaches_every_websocket(server):
    with watch(server, "/jobs/demo") as first, watch(server, "/jobs/demo") as second:
        assert status(server, "/jobs/demo", method="POST", state="on") == 204
        for client in (first, second):
            message = hear(client, lambda message: message.get("news"))
            assert message["state"] == "on"
            assert message["news"][0]["event"] == "switched on"


def test_whoever_comes_later_learns_how_the_job_stands(server):
    ask(server, "/jobs/demo", method="POST", state="on")
    with watch(server, "/jobs/demo") as client:
        message = hear(client)
    assert message["state"] == "on"
    assert [entry["event"] for entry in message["log"]] == ["switched on"]


@pytest.mark.parametrize("path", ["/jobs/demo", "/jobs"])
def test_whoever_comes_back_gets_what_it_has_missed_and_nothing_else(server, path):
    with watch(server, path) as client:
        assert "id" not in receive(client)  # How things stand, to this one alone.
        ask(server, "/jobs/demo", method="POST", state="on")
        seen = receive(client)
        while "on" not in json.dumps(seen["data"]):
            seen = receive(client)
    missed = []
    ask(server, "/jobs/demo", method="POST", state="off")
    with watch(server, f"{path}?since={seen['id']}") as client:
        while "recovered" not in (found := receive(client)):
            missed.append(found)
    assert found["recovered"]
    assert all("id" in message for message in missed)
    assert '"state": "off"' in json.dumps(missed)


@pytest.mark.parametrize("path", ["/jobs/demo", "/jobs"])
def test_whoever_comes_back_too_late_learns_how_things_stand(server, path):
    ask(server, "/jobs/demo", method="POST", state="on")
    with watch(server, f"{path}?since=long-ago") as client:
        assert receive(client)["recovered"] is False
        whole = receive(client)
    assert "id" not in whole
    assert '"state": "on"' in json.dumps(whole["data"])


def test_all_learn_how_many_are_watching(server):
    with watch(server, "/jobs/demo") as first:
        with watch(server, "/jobs/demo"):
            hear(first, lambda message: message["watching"] == 2)
        hear(first, lambda message: message["watching"] == 1)


def test_a_run_reports_to_whoever_watches_with_no_request_around(server, jobs):
    jobs["demo"].pace = 0
    with watch(server, "/jobs/demo") as first, watch(server, "/jobs/demo") as second:
        wait_until(lambda: not jobs["demo"].report_due)  # Who is watching has been told.
        assert status(server, "/jobs/demo/run", method="POST") == 204
        for client in (first, second):
            messages = [hear(client, lambda message: message["running"])]
            while messages[-1]["running"]:
                messages.append(hear(client))
            progress = [message["progress"] for message in messages]
            assert progress == sorted(progress)  # One may come twice: who is watching was news.
            assert set(progress) == set(range(101))
            assert messages[-1]["news"][0]["event"] == "run finished"


def test_a_second_run_is_refused_while_one_is_under_way(server, jobs):
    jobs["demo"].pace = 3600
    assert status(server, "/jobs/demo/run", method="POST") == 204
    assert status(server, "/jobs/demo/run", method="POST") == 409


def test_two_jobs_do_not_hear_each_other(server):
    with watch(server, "/jobs/one") as one, watch(server, "/jobs/two") as two:
        ask(server, "/jobs/one", method="POST", state="on")
        ask(server, "/jobs/two", method="POST", state="off")
        assert hear(one, lambda message: message.get("news"))["name"] == "one"
        assert hear(two, lambda message: message.get("news"))["name"] == "two"


@pytest.mark.parametrize("fields", [{}, {"state": ""}, {"state": "blue"}, {"state": b"\xff"}])
def test_an_unknown_state_is_refused_with_400(server, fields):
    assert status(server, "/jobs/demo", method="POST", **fields) == 400


@pytest.mark.parametrize("path", ["/nothing", "/jobs/demo/nothing", "/jobs/" + "x" * 41])
def test_what_is_not_there_is_404(server, path):
    assert status(server, path) == 404
    with pytest.raises(InvalidStatus) as refused:
        watch(server, path)
    assert refused.value.response.status_code == 404


def test_a_name_too_many_is_404(server, jobs):
    for number in range(jobs.max_jobs):
        jobs[str(number)]
    assert status(server, "/jobs/more") == 404
    assert status(server, "/jobs/0") == 200


@pytest.mark.parametrize("path", ["/jobs/demo?state=on", "/jobs/demo/run"])
def test_nothing_changes_by_a_get(server, jobs, path):
    ask(server, path)
    assert (jobs["demo"].state, jobs["demo"].running) == ("off", False)


def test_the_views_of_the_websockets_with_a_fake_one():
    jobs = Jobs(Root())
    for resource, view in ((jobs["demo"], JobSocket), (jobs, JobsSocket)):
        request = DummyRequest(context=resource)
        websocket = FakeWebSocket(stays=True)
        view(request).on_open(websocket)
        assert list(resource.listeners) == [websocket]
        first = json.loads(websocket.sent[0])
        assert (first if resource is not jobs else first[0])["state"] == "off"
