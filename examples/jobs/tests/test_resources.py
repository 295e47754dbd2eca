"""Jobs on their own: no server, no request, listeners from ``stargate.testing``."""

import json
import threading

import pytest

from jobs.resources import Jobs, Root
from stargate.testing import FakeWebSocket
from stargate_tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_application")


@pytest.fixture
def jobs():
    return Jobs(Root())


@pytest.fixture
def job(jobs):
    job = jobs["demo"]
    job.pace = 0
    return job


def listen(resource):
    websocket = FakeWebSocket(stays=True)
    resource.add_listener(websocket)
    return websocket


def heard(websocket):
    return [json.loads(message) for message in websocket.sent]


def has_ended(job):
    """Wait until its run has been reported to the end; it is a thread's work."""
    wait_until(lambda: job.log[-1]["event"].startswith(("run finished", "stopped")))


def test_a_job_is_made_by_asking_and_kept(jobs):
    assert jobs["demo"] is jobs["demo"]
    assert (jobs["demo"].__name__, jobs["demo"].__parent__) == ("demo", jobs)
    assert jobs["demo"].path == "/jobs/demo"


def test_the_number_of_jobs_is_bounded(jobs):
    for number in range(jobs.max_jobs):
        jobs[str(number)]
    with pytest.raises(KeyError):
        jobs["one more"]
    assert jobs["0"].state == "off"


def test_the_length_of_a_name_is_bounded(jobs):
    assert jobs["x" * jobs.max_name]
    with pytest.raises(KeyError):
        jobs["x" * (jobs.max_name + 1)]


def test_every_listener_hears_of_a_switch(job):
    first, second = listen(job), listen(job)
    job.control("on")
    assert heard(first) == heard(second)
    [message] = heard(first)
    assert (message["state"], message["watching"]) == ("on", 2)
    assert [entry["event"] for entry in message["news"]] == ["switched on"]


def test_the_list_hears_of_every_job(jobs):
    page = listen(jobs)
    jobs["one"].control("on")
    jobs["two"].control("off")
    assert [(job["name"], job["state"]) for [job] in heard(page)] == [("one", "on"), ("two", "off")]


def test_two_jobs_do_not_hear_each_other(jobs):
    one, two = listen(jobs["one"]), listen(jobs["two"])
    jobs["one"].control("on")
    assert len(heard(one)) == 1
    assert heard(two) == []


@pytest.mark.parametrize("state", ["", "ON", "blue", None])
def test_an_unknown_state_changes_nothing(job, state):
    websocket = listen(job)
    with pytest.raises(ValueError, match="on or off"):
        job.control(state)
    assert job.state == "off"
    assert heard(websocket) == []


def test_a_run_reports_each_percent_and_its_end(job):
    websocket = listen(job)
    assert job.run()
    has_ended(job)
    messages = heard(websocket)
    assert [message["progress"] for message in messages] == [*range(101), 100]
    assert [message["running"] for message in messages] == [True] * 101 + [False]
    assert [entry["event"] for entry in job.log] == ["run started", "run finished"]


def test_one_run_at_a_time(job):
    assert job.run()
    assert not job.run()
    has_ended(job)
    assert job.run()
    has_ended(job)


def test_switching_off_ends_a_run(job):
    websocket = listen(job)
    job.pace = 0.001
    job.run()
    wait_until(lambda: job.progress >= 40)
    job.control("off")
    has_ended(job)
    assert job.progress < 100
    assert heard(websocket)[-1]["news"][0]["event"] == f"stopped at {job.progress} %"


def test_the_log_is_bounded(job):
    for _ in range(150):
        job.control("on")
    assert len(job.log) == 100


def test_many_who_come_at_once_are_one_report(job):
    websockets = [listen(job) for _ in range(100)]
    for _ in websockets:
        job.report_soon()
    [timer] = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
    timer.join(10)
    assert [message["watching"] for message in heard(websockets[0])] == [100]
