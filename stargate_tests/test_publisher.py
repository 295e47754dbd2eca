"""Publishers from anywhere: ``stargate.connect()`` with a real Redis, threads and forks."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest
from pyramid.traversal import resource_path

import stargate
from stargate import BackplaneError, BadAddress, MessageTooBig, WebSocketAwareContext
from stargate.backplane.redis.commands import Deadline
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.publisher import Publisher as Namespace
from stargate.engine.hub import threading
from stargate.history import Keep
from stargate.message.address import MAX_ADDRESS
from stargate_tests.waiting import wait_until

ROOT = Path(__file__).parents[1]

#: Seconds within which a program has to end.
DEADLINE = 60

ID = "0123456789abcdef" * 2


@pytest.fixture
def publisher(redis_server, namespace):
    with stargate.connect(redis_server.url, namespace) as publisher:
        yield publisher


@pytest.fixture
def keep(redis_server, namespace):
    """``keep(path)``: have the messages of ``path`` kept, as an application would."""
    made = Namespace(commands_to(redis_server.url, 30), namespace)
    yield lambda path, size=10_000: made.touch(path, Keep(size))
    made.close()


@pytest.fixture
def wire(redis_server, namespace):
    """``wire(path)``: a subscriber of Pub/Sub; ``next(subscriber)`` is what is sent to it."""
    client = redis_server.client(decode_responses=False)
    with client.pubsub() as pubsub:

        def subscribe(path):
            pubsub.subscribe(f"stargate:{{{namespace}:{path}}}")
            messages = pubsub.listen()
            assert next(messages)["type"] == "subscribe"
            return (each["data"].split(b" ", 5) for each in messages)

        yield subscribe


def run(program, *arguments):
    """Run ``program`` in a Python of its own; what it writes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", dedent(program)]
        + list(arguments),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_ini(folder, *lines, section="app:main"):
    path = folder / "production.ini"
    path.write_text("\n".join((f"[{section}]", "use = call:no.such:application", *lines, "")))
    return path


# What is sent.


def test_text_bytes_and_json_arrive_as_what_they_are(publisher, keep):
    keep("/jobs/1")
    ids = [
        publisher.send("/jobs/1", "grün"),
        publisher.send("/jobs/1", b"\x00\xff"),
        publisher.send_json("/jobs/1", {"a": [1, None, "ü"]}),
    ]
    history = publisher.history("/jobs/1")
    assert [each.id for each in history] == ids
    assert [each.message for each in history[:2]] == ["grün", b"\x00\xff"]
    assert json.loads(history[2].message) == {"a": [1, None, "ü"]}
    assert [each.json for each in history] == [False, False, True]


def test_without_a_history_there_is_no_id(publisher):
    assert publisher.send("/jobs/1", "on") is None
    assert publisher.history("/jobs/1") == [] and publisher.history("/jobs/1").complete


def test_a_repeat_of_a_key_sends_nothing(publisher, keep):
    keep("/jobs/1")
    first = publisher.send("/jobs/1", "on", key="order-5")
    assert publisher.send_json("/jobs/1", "on", key="order-5") == first
    assert len(publisher.history("/jobs/1")) == 1


@pytest.mark.parametrize("exclude", [ID, [ID], {ID: 1}.keys()])
def test_ids_of_websockets_are_left_out(publisher, wire, exclude):
    got = wire("/jobs/1")
    publisher.send("/jobs/1", "on", exclude=exclude, key="k")
    assert next(got)[4:] == [ID.encode(), b"k\non"]


def test_nobody_is_left_out_otherwise(publisher, wire):
    got = wire("/jobs/1")
    publisher.send("/jobs/1", "on", exclude=None, key="k")
    assert next(got)[4] == b"-"


@pytest.mark.parametrize(("exclude", "error"), [([5], TypeError), (["x"], ValueError)])
def test_what_is_no_id_is_refused(publisher, exclude, error):
    with pytest.raises(error, match="exclude has"):
        publisher.send("/jobs/1", "on", exclude=exclude)


@pytest.mark.parametrize("message", [None, 5, {"a": 1}, bytearray(b"x")])
def test_a_message_is_text_or_bytes(publisher, message):
    with pytest.raises(TypeError, match=r"a message is str \(text\) or bytes"):
        publisher.send("/jobs/1", message)


def test_a_message_past_the_limit_is_not_sent(redis_server, namespace, keep):
    keep("/jobs/1")
    with stargate.connect(redis_server.url, namespace, max_send_size=4) as publisher:
        publisher.send("/jobs/1", "ÄÖ")
        with pytest.raises(MessageTooBig, match="5 bytes for /jobs/1 .* 4 bytes"):
            publisher.send("/jobs/1", "ÄÖ!")
        assert [each.message for each in publisher.history("/jobs/1")] == ["ÄÖ"]


def test_a_megabyte_is_the_limit_where_nothing_is_said(publisher):
    publisher.send("/jobs/1", b"x" * 1_048_576)
    with pytest.raises(MessageTooBig):
        publisher.send("/jobs/1", b"x" * 1_048_577)


def test_what_is_no_json_is_an_error_before_anything_is_sent(publisher, keep):
    keep("/jobs/1")
    for value in (float("nan"), [float("-inf")], object()):
        with pytest.raises((ValueError, TypeError)):
            publisher.send_json("/jobs/1", value)
    assert publisher.history("/jobs/1") == []


@pytest.mark.parametrize("written", ['"as I say"', b'"as I say"'])
def test_json_is_written_as_the_caller_says(redis_server, namespace, keep, written):
    keep("/jobs/1")
    with stargate.connect(redis_server.url, namespace, json=lambda value: written) as publisher:
        publisher.send_json("/jobs/1", object())
        assert publisher.history("/jobs/1")[0].message == '"as I say"'


@pytest.mark.parametrize("written", ["NaN", b"[Infinity]", b'"\xff"', '"\ud800"'])
def test_what_the_caller_writes_is_what_a_browser_reads(redis_server, namespace, keep, written):
    keep("/jobs/1")
    with stargate.connect(redis_server.url, namespace, json=lambda value: written) as publisher:
        with pytest.raises(ValueError, match="no JSON|utf-8"):
            publisher.send_json("/jobs/1", 1)
        assert publisher.history("/jobs/1") == []


def test_a_key_that_is_nan_is_the_text_that_json_makes_of_it(publisher, keep):
    keep("/jobs/1")
    publisher.send_json("/jobs/1", {float("nan"): "Infinity"})
    assert publisher.history("/jobs/1")[0].message == '{"NaN": "Infinity"}'


# Where it is sent.


class Node(WebSocketAwareContext):
    def __init__(self, name, parent):
        self.__name__, self.__parent__ = name, parent


@pytest.mark.parametrize(
    "name", ["1", "a b", "grün", "a%20b", "a/b", "~!$&'()*+,;=:@", "{x}", "\U0001f680", "100%"]
)
def test_what_pyramid_writes_is_taken_as_it_stands(publisher, keep, name):
    node = Node(name, Node("", None))
    assert node.path == resource_path(node)
    keep(node.path)
    assert publisher.send(node.path, "on")
    assert len(publisher.history(node.path)) == 1


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/jobs/a b", "/jobs/a%20b"),
        ("/jobs/grün", "/jobs/gr%C3%BCn"),
        ("/jobs/", "/jobs"),
        ("/jobs/%7E", "/jobs/~"),
        ("/jobs/%c3%bc", "/jobs/%C3%BC"),
    ],
)
def test_another_spelling_is_an_error_that_has_the_right_one(publisher, path, right):
    for call in (publisher.history, lambda path: publisher.send(path, "on")):
        with pytest.raises(BadAddress, match="it must be") as caught:
            call(path)
        assert repr(right) in str(caught.value)


def test_a_path_that_is_none_is_an_error(publisher):
    for path in ("", "jobs/1", "acme/jobs", "/" + "x" * MAX_ADDRESS):
        for call in (
            lambda: publisher.send(path, "on"),  # noqa: B023
            lambda: publisher.send_json(path, "on"),  # noqa: B023
            lambda: publisher.history(path),  # noqa: B023
            lambda: publisher.presence(path),  # noqa: B023
            lambda: publisher.listener_count(path),  # noqa: B023
        ):
            with pytest.raises(BadAddress):
                call()


def test_a_resource_is_an_error_that_says_what_to_give(publisher):
    with pytest.raises(TypeError, match=r"not to Node; that of a resource is resource\.path"):
        publisher.send(Node("", None), "on")


def test_an_address_with_a_scope_is_taken(publisher, keep):
    keep("tenant-1:/jobs")
    assert publisher.send("tenant-1:/jobs", "on")


@pytest.mark.parametrize("scope", ["", "acme:"])
def test_the_longest_address_is_taken(publisher, keep, scope):
    longest = f"{scope}/" + "x" * (MAX_ADDRESS - 1 - len(scope))
    keep(longest)
    assert publisher.send(longest, "on")
    assert [each.message for each in publisher.history(longest)] == ["on"]
    assert publisher.presence(longest) == {}


def test_two_namespaces_do_not_hear_each_other(redis_server, publisher, keep):
    keep("/jobs/1")
    with stargate.connect(redis_server.url, "test-of-another") as other:
        assert other.send("/jobs/1", "on") is None
    assert publisher.history("/jobs/1") == []


# What is kept.


def test_history_goes_on_from_an_id(publisher, keep):
    keep("/jobs/1")
    ids = [publisher.send("/jobs/1", str(number)) for number in range(5)]
    page = publisher.history("/jobs/1", since=ids[1], limit=2)
    assert [each.message for each in page] == ["2", "3"]
    assert page.complete and page.position == ids[4]
    assert [each.message for each in publisher.history("/jobs/1", limit=2)] == ["3", "4"]


def test_what_can_not_be_gone_on_from_is_said(publisher, keep):
    keep("/jobs/1")
    publisher.send("/jobs/1", "on")
    for since in ("nothing", "0123456789ab-1-0123456789ab"):
        page = publisher.history("/jobs/1", since=since)
        assert page == [] and not page.complete


def test_a_limit_below_one_is_an_error(publisher):
    with pytest.raises(ValueError, match="limit = 0"):
        publisher.history("/jobs/1", limit=0)


# Targets.


def test_a_namespace_is_needed_with_a_url(redis_server):
    with pytest.raises(ValueError, match="the namespace is needed"):
        stargate.connect(redis_server.url)


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        (("redis://localhost", "a b"), {}, "stargate.namespace = 'a b'"),
        (("http://localhost", "shop"), {}, "no backplane for http:// is installed"),
        (("redis://localhost?socket_timeout=5", "shop"), {}, "socket_timeout is not for the URL"),
        (("redis://localhost", "shop"), {"timeout": 0}, "backplane_timeout = 0: .* at least"),
        (("redis://localhost", "shop"), {"replicas": -1}, "backplane_replicas = -1"),
        (("redis://localhost", "shop"), {"max_send_size": "x"}, "max_send_size = 'x'"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(arguments, options, why):
    with pytest.raises(ValueError, match=why):
        stargate.connect(*arguments, **options)


def test_something_else_than_text_or_a_path_is_no_target():
    with pytest.raises(TypeError, match="the URL of a Redis or the path of an ini file"):
        stargate.connect(5)


def test_an_ini_file_brings_everything(tmp_path, redis_server, namespace, keep):
    keep("/jobs/1")
    path = write_ini(
        tmp_path,
        f"stargate.backplane = {redis_server.url}",
        f"stargate.namespace = {namespace}",
        "stargate.backplane_timeout = 0.5",
        "stargate.backplane_replicas = 1",
        "stargate.outbox_size = 40",
    )
    with stargate.connect(path) as publisher:
        assert publisher._backplane._publisher.commands.timeout == 0.5
        with pytest.raises(BackplaneError) as caught:  # There is no replica.
            publisher.send("/jobs/1", "on")
        assert caught.value.outcome == "unknown"
        with pytest.raises(MessageTooBig, match="11 bytes"):
            publisher.send("/jobs/1", "hello world")
    with stargate.connect(str(path) + "#main", replicas=0, max_send_size=20) as publisher:
        assert publisher.send("/jobs/1", "hello world")


def test_an_ini_file_with_the_memory_backplane_is_an_error_that_says_what_to_set(tmp_path):
    with pytest.raises(ValueError) as caught:
        stargate.connect(write_ini(tmp_path))
    for words in ("production.ini", "no other process", "stargate.backplane = redis://",
                  "stargate.namespace ="):  # fmt: skip
        assert words in str(caught.value)


def test_an_ini_file_is_judged_as_the_application_judges_it(tmp_path):
    path = write_ini(tmp_path, "stargate.backplane = redis://:secret@localhost")
    with pytest.raises(ValueError, match=r"production.ini: stargate.namespace is not set"):
        stargate.connect(path)
    path = write_ini(tmp_path, "stargate.backplan = redis://:secret@localhost")
    with pytest.raises(ValueError, match="did you mean stargate.backplane") as caught:
        stargate.connect(path)
    assert "secret" not in str(caught.value)


def test_a_namespace_beside_an_ini_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="brings its namespace"):
        stargate.connect(write_ini(tmp_path), "shop")


def test_a_file_that_is_not_there_is_said():
    with pytest.raises(FileNotFoundError, match="no such ini file"):
        stargate.connect("redis:localhost")
    with pytest.raises(FileNotFoundError, match="no such ini file"):
        stargate.connect("redis:localhost", "shop")


def test_no_password_is_shown(redis_server):
    publisher = stargate.connect("redis://name:secret@localhost:1/0", "shop")
    assert repr(publisher) == "<Publisher to shop at localhost:1>"
    with pytest.raises(BackplaneError) as caught:
        publisher.send("/jobs/1", "on")
    assert caught.value.outcome == "not sent"
    assert "secret" not in str(caught.value) + repr(caught.value.__cause__)


def test_without_redis_py_it_is_said_what_to_install():
    program = """
        import sys
        sys.modules["redis"] = None
        import stargate
        try:
            stargate.connect("redis://localhost", "shop")
        except ModuleNotFoundError as error:
            print(error)
    """
    assert run(program) == "redis is missing: pip install stargate[redis]\n"


# The process that it is in.


def test_it_imports_neither_pyramid_nor_eventlet(tmp_path, redis_server, namespace):
    ini = write_ini(
        tmp_path,
        f"stargate.backplane = {redis_server.url}",
        f"stargate.namespace = {namespace}",
    )
    program = """
        import sys, stargate
        for target in ((sys.argv[1], sys.argv[2]), (sys.argv[3],)):
            with stargate.connect(*target) as publisher:
                publisher.send("/jobs/1", "on")
                publisher.history("/jobs/1")
        print([each for each in sys.modules if each.partition(".")[0] in (
            "pyramid", "eventlet", "zope", "webob", "websockets", "gunicorn")])
        print(callable(stargate.connect))
    """
    assert run(program, redis_server.url, namespace, str(ini)) == "[]\nTrue\n"


def test_threads_share_it_and_each_keeps_its_order(publisher, keep):
    keep("/jobs/1")
    names, count = range(50), 20

    def send(name):
        for number in range(count):
            publisher.send("/jobs/1", f"{name} {number}")

    threads = [threading.Thread(target=send, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    got = [each.message.split() for each in publisher.history("/jobs/1", limit=5_000)]
    for name in names:
        mine = [int(number) for who, number in got if who == str(name)]
        assert mine == list(range(count))
    assert len(got) == len(names) * count


FORK = """
    import os, sys, threading
    import stargate

    publisher = stargate.connect(sys.argv[1], sys.argv[2], timeout=30)
    begun, stop = threading.Event(), threading.Event()
    sent = []

    def send_on():
        while not stop.is_set():
            publisher.send("/jobs/1", f"parent {len(sent)}")
            sent.append(None)
            begun.set()

    def send_some(name):
        for number in range(20):
            publisher.send("/jobs/1", f"{name} {number}")

    def start(count, function, *arguments):
        found = [threading.Thread(target=function, args=arguments) for _ in range(count)]
        for thread in found:
            thread.start()
        return found

    # Several connections, of which some are idle when it forks.
    for thread in start(8, send_some, "at first"):
        thread.join(30)
    threads = start(int(sys.argv[3]), send_on)
    if threads:
        begun.wait(30)
    children = []
    for number in range(5):
        child = os.fork()
        if not child:
            try:
                both = [
                    threading.Thread(target=send_some, args=(f"child{number}{name}",))
                    for name in "ab"
                ]
                for thread in both:
                    thread.start()
                for thread in both:
                    thread.join(30)
                publisher.close()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    for thread in threads:
        thread.join(30)
    publisher.send("/jobs/1", "the last")
    publisher.close()
    print(codes)
"""


@pytest.mark.parametrize("threads", [0, 3], ids=["while-idle", "while-in-use"])
def test_parent_and_child_go_on_after_a_fork(redis_server, namespace, publisher, keep, threads):
    keep("/jobs/1", 100_000)
    assert run(FORK, redis_server.url, namespace, str(threads)) == "[0, 0, 0, 0, 0]\n"
    got = [each.message for each in publisher.history("/jobs/1", limit=100_000)]
    assert got[-1] == "the last"
    for child in range(5):
        for name in "ab":
            begin = f"child{child}{name} "
            mine = [each for each in got if each.startswith(begin)]
            assert mine == [f"{begin}{number}" for number in range(20)]


def test_an_asyncio_program_sends_by_to_thread(publisher, keep):
    keep("/jobs/1")

    async def main():
        await asyncio.gather(
            *(asyncio.to_thread(publisher.send, "/jobs/1", str(number)) for number in range(20))
        )

    asyncio.run(main())
    got = sorted(int(each.message) for each in publisher.history("/jobs/1"))
    assert got == list(range(20))


# Its end, and that of the Redis.


def test_nothing_is_connected_before_the_first_call_or_after_the_end(own_redis, namespace):
    redis = own_redis()
    client = redis.client()

    def connections():
        return sum(each["id"] != mine for each in client.client_list())

    mine = str(client.client_id())
    with stargate.connect(redis.url, namespace) as publisher:
        assert connections() == 0
        threads = [
            threading.Thread(target=publisher.send, args=("/jobs/1", "x" * 100_000))
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert connections() >= 1
    wait_until(lambda: connections() == 0)
    with pytest.raises(ValueError, match="closed"):
        publisher.send("/jobs/1", "on")
    publisher.close()


def test_a_connection_that_is_in_use_at_the_end_is_closed_when_it_is_not(redis_server, namespace):
    publisher = stargate.connect(redis_server.url, namespace)
    publisher.send("/jobs/1", "on")
    [pool] = publisher._backplane._publisher.commands._pools.values()
    connection = pool.take(Deadline(30))
    publisher.close()
    assert connection._sock is not None
    pool.give(connection)
    assert connection._sock is None


def test_a_restart_of_an_idle_redis_is_not_noticed(own_redis, namespace):
    redis = own_redis()
    with stargate.connect(redis.url, namespace) as publisher:
        publisher.send("/jobs/1", "on")
        redis.restart()
        publisher.send("/jobs/1", "off")


def test_a_redis_that_stands_still_costs_one_deadline(own_redis, namespace):
    redis = own_redis()
    with stargate.connect(redis.url, namespace, timeout=0.5) as publisher:
        publisher.send("/jobs/1", "on")
        redis.pause()
        began = time.monotonic()
        with pytest.raises(BackplaneError) as caught:
            publisher.send("/jobs/1", "off", key="again")
        assert time.monotonic() - began < 10
        assert (caught.value.outcome, caught.value.key) == ("unknown", "again")
        redis.resume()
        publisher.send("/jobs/1", "off", key=caught.value.key)
