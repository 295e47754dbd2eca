"""What becomes of open WebSockets when their Redis fails: a real application under our server."""

import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.frames import Opcode

import stargate
from stargate_tests import raw
from stargate_tests.certificates import certificate
from stargate_tests.functional.program import pserve
from stargate_tests.waiting import wait_until

SETTINGS = """\
stargate.backplane = {url}
stargate.namespace = {namespace}
stargate.presence = {presence}
stargate.allowed_origins = *
"""


class Site:
    """An application under our server, with one Redis."""

    def __init__(self, program):
        self.program = program

    def get(self, path, **params):
        url = f"{self.program.url}{path}?{urllib.parse.urlencode(params)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.read().decode()

    def send(self, path, message, **params):
        return json.loads(self.get(f"{path}/@@send", message=message, **params))

    def sent(self, path, *messages):
        """Send; none fails. Their ids."""
        found = [self.send(path, each) for each in messages]
        assert all(each["outcome"] == "sent" for each in found), found
        return [each["id"] for each in found]

    def stats(self):
        return json.loads(self.get("/@@stats"))

    def back(self, count=1):
        wait_until(lambda: self.stats()["resubscribed"] >= count)


class Listener:
    """A raw WebSocket that speaks ``stargate.v1``."""

    def __init__(self, site, path, since=None):
        query = f"?since={since}" if since else ""
        self.sock = raw.connect(
            site.program.url, path + query, "Sec-WebSocket-Protocol: stargate.v1", timeout=60
        )

    def next(self):
        """A message, or what it is told."""
        opcode, payload = raw.read_frame(self.sock)
        assert opcode is Opcode.TEXT, (opcode, payload)
        found = json.loads(payload)
        return found.get("data", found)

    def messages(self, *expected):
        for each in expected:
            assert self.next() == each


@pytest.fixture
def site(tmp_path, namespace):
    """``site(url)``: an application with this Redis; ended after the test."""
    with ExitStack() as stack:

        def site(url, presence="true"):
            app = SETTINGS.format(url=url, namespace=namespace, presence=presence)
            program = pserve(tmp_path, app=app.replace("%", "%%"), module="redis_app")
            return Site(stack.enter_context(program))

        yield site


@pytest.fixture
def listen():
    with ExitStack() as stack:

        def listen(site, path, since=None):
            found = Listener(site, path, since)
            stack.callback(found.sock.close)
            return found

        yield listen


def opened(site, listen):
    """One listener where messages are kept, and one where none are, which have heard one each."""
    kept, plain = listen(site, "/kept/a"), listen(site, "/plain")
    wait_until(lambda: site.stats()["connections"] == 2)
    for listener, path in ((kept, "/kept/a"), (plain, "/plain")):
        wait_until(lambda path=path, listener=listener: heard(site, listener, path))
    return kept, plain


def heard(site, listener, path):
    """Whether ``listener`` has been attached: it gets what is sent."""
    site.sent(path, "0")
    listener.sock.settimeout(1)
    try:
        listener.messages("0")
    except TimeoutError:
        return False
    listener.sock.settimeout(60)
    return True


def goes_on(site, kept, plain, *before):
    """Both are open and hear; the one without a history has been told, and so has the log."""
    site.sent("/kept/a", "after")
    site.sent("/plain", "after")
    kept.messages(*before, "after")
    told = plain.next()
    assert told["recovered"] is False
    plain.messages("after")
    wait_until(lambda: "/plain" in site.stats()["missed"])
    site.program.expect("messages for /plain may have been missed: none are kept")
    assert site.stats()["connections"] == 2


def test_a_restart_with_its_data_loses_nothing_that_is_kept(own_redis, site, listen):
    server = own_redis()
    here = site(server.url)
    kept, plain = opened(here, listen)
    server.stop()
    assert here.send("/kept/a", "x")["outcome"] == "not sent"
    server.start()
    here.sent("/kept/a", "1", "2")
    here.back(2)
    goes_on(here, kept, plain, "1", "2")
    assert here.stats()["missed"] == ["/plain"]


def test_a_restart_with_older_data_is_told(own_redis, site, listen):
    server = own_redis()
    here = site(server.url)
    kept, plain = opened(here, listen)
    older = server.snapshot()
    ids = here.sent("/kept/a", "1", "2")
    kept.messages("1", "2")
    server.restore(older)
    here.back(2)
    told = kept.next()
    assert told["recovered"] is False
    goes_on(here, kept, plain)
    late = listen(here, "/kept/a", since=ids[-1])
    assert late.next()["recovered"] is False


def test_a_restart_with_nothing_is_told(own_redis, site, listen):
    server = own_redis()
    here = site(server.url)
    kept, plain = opened(here, listen)
    server.wipe()
    here.back(2)
    assert kept.next()["recovered"] is False
    goes_on(here, kept, plain)


def ended(site, path, *said):
    """How long a WebSocket lasts there, in seconds, and how it is closed."""
    began = time.monotonic()
    with raw.connect(site.program.url, path, timeout=60) as sock:
        for each in said:
            sock.sendall(raw.frame(each))
        opcode, payload = raw.read_frame(sock)
    assert opcode is Opcode.CLOSE, (opcode, payload)
    return time.monotonic() - began, (int.from_bytes(payload[:2], "big"), payload[2:].decode())


def page(site, path):
    """How long a page takes, in seconds, and its status and ``Retry-After``."""
    began = time.monotonic()
    try:
        with urllib.request.urlopen(site.program.url + path, timeout=30) as answer:
            return time.monotonic() - began, (answer.status, None)
    except urllib.error.HTTPError as error:
        with error:
            assert b"try again" in error.read().lower()
            return time.monotonic() - began, (error.code, error.headers["Retry-After"])


LATER = (1013, "try again later")


@pytest.mark.parametrize("fault", ["stop", "pause"])
def test_while_it_is_away_joins_are_told_to_try_again_at_once(own_redis, site, fault):
    """It is gone, or it stands still, before anything is known of it."""
    server = own_redis()
    here = site(server.url)
    getattr(server, fault)()
    first, how = ended(here, "/talk0/@@talk")
    assert how == LATER
    # By now it is known: nobody else waits, whatever the view and the address.
    took = [ended(here, path) for path in ("/talk0/@@talk", "/talk1/@@talk", "/kept/x/@@talk")]
    assert [how for _, how in took] == [LATER] * 3
    assert first < 10 and max(seconds for seconds, _ in took) < 1, (first, took)
    {"stop": server.start, "pause": server.resume}[fault]()
    back = time.monotonic()
    wait_until(lambda: joins(here, "/talk2/@@talk"))
    assert time.monotonic() - back < 10
    print(f"{fault}: first {first:.2f} s, next {[round(s, 3) for s, _ in took]}")


def joins(site, path):
    """Whether somebody who comes is a listener, and hears what is said."""
    with raw.connect(site.program.url, path, timeout=60) as sock:
        sock.sendall(raw.frame("hello"))
        return raw.read_frame(sock) == (Opcode.TEXT, b"hello")


def test_who_comes_during_a_short_restart_waits_for_it(own_redis, site):
    """The connection of those who listen is cut, and another one is there in 50 ms."""
    server = own_redis()
    here = site(server.url)
    assert joins(here, "/a/@@talk")
    for number in range(5):
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        assert joins(here, f"/b{number}/@@talk")


def test_what_nobody_catches_is_a_line_in_the_log_and_try_again_later(own_redis, site, listen):
    server = own_redis()
    here = site(server.url)
    kept, plain = opened(here, listen)
    assert page(here, "/plain/@@say")[1] == (200, None)
    plain.messages("said")
    server.stop()
    ended(here, "/away/@@talk")
    took, answer = page(here, "/plain/@@say")
    assert (answer, took < 2) == ((503, "1"), True)
    took, how = ended(here, "/plain/@@speak", "hello")
    assert (how, took < 2) == (LATER, True)
    took, how = ended(here, "/kept/b/@@talk")
    assert (how, took < 2) == (LATER, True)
    # Those that fail alike are counted behind it.
    here.program.expect(r"Talk failed at /away/@@talk .*: not sent: .*\n")
    assert here.get("/plain/@@page") == "a page"
    server.start()
    here.back(2)
    goes_on(here, kept, plain)
    assert page(here, "/plain/@@say")[1] == (200, None)
    assert here.program.log.count("GET /plain/@@say failed: not sent: ") == 1
    here.program.stop()
    assert here.program.log.count("@@talk (WebSocket ") == 2, "the first, and the newest"
    assert re.search(r"Talk failed at /kept/b/@@talk .* \(the newest of 2 in", here.program.log)
    assert "Traceback" not in here.program.log


def test_a_killed_client_comes_back(own_redis, site, listen):
    server = own_redis()
    here = site(server.url)
    kept, plain = opened(here, listen)
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    here.sent("/kept/a", "1")
    here.back(2)
    server.ask("CLIENT", "KILL", "TYPE", "normal")
    goes_on(here, kept, plain, "1")


def test_a_redis_that_stands_still_holds_nobody_else_up_and_is_caught_up_with(
    own_redis, site, listen
):
    server = own_redis()
    here = site(server.url)
    kept, plain = opened(here, listen)
    echo = raw.connect(here.program.url, "/@@echo", timeout=60)
    server.pause()
    until = time.monotonic() + 12  # It is taken for lost after ten seconds of silence.
    outcomes = []
    senders = [
        threading.Thread(target=lambda: outcomes.append(here.send("/kept/a", "while")["outcome"]))
        for _ in range(5)
    ]
    began = time.monotonic()
    for each in senders:
        each.start()
    slowest, pace = 0.0, threading.Event()
    while time.monotonic() < until:
        before = time.monotonic()
        assert here.get("/plain/@@page") == "a page"
        echo.sendall(raw.frame("hello"))
        assert raw.read_frame(echo) == (Opcode.TEXT, b"hello")
        slowest = max(slowest, time.monotonic() - before)
        pace.wait(0.1)  # The log of the program, which nobody reads now, takes 64 KiB.
    for each in senders:
        each.join()
    echo.close()
    server.resume()
    assert slowest < 1.5 and len(outcomes) == 5
    assert set(outcomes) == {"unknown"}
    assert time.monotonic() - began < 25
    expected = json.loads(here.get("/kept/a/@@history"))[1:]
    here.back(2)
    goes_on(here, kept, plain, *[each for each in expected if each == "while"])


def test_a_reply_that_is_cut_leaves_it_unknown_and_a_repeat_is_dropped(
    own_redis, relay, site, listen
):
    server = own_redis()
    between = relay(server)
    here = site(between.url, presence="false")
    kept = listen(here, "/kept/a")
    wait_until(lambda: heard(here, kept, "/kept/a"))
    between.cut_after(1)
    found = here.send("/kept/a", "1")
    if found["outcome"] != "sent":  # The push of the message may have been what was cut.
        assert found["outcome"] == "unknown"
        assert here.send("/kept/a", "1", key=found["key"])["outcome"] == "sent"
    here.sent("/kept/a", "2")
    kept.messages("1", "2")


def test_a_message_that_never_comes_is_fetched_when_the_next_one_does(
    own_redis, relay, site, listen
):
    between = relay(own_redis())
    here = site(between.url)
    kept = listen(here, "/kept/a")
    wait_until(lambda: heard(here, kept, "/kept/a"))
    between.drop(b"lost")
    here.sent("/kept/a", "lost", "next")
    kept.messages("lost", "next")
    assert here.stats()["gaps"] == 1


def test_a_redis_out_of_memory_says_so_and_goes_on(own_redis, site, listen):
    server = own_redis(maxmemory_policy="noeviction")
    here = site(server.url)
    kept, plain = opened(here, listen)
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    for path in ("/kept/a", "/plain"):
        found = here.send(path, "x")
        assert found["outcome"] == "not sent" and "maxmemory" in found["why"]
    server.ask("CONFIG", "SET", "maxmemory", "0")
    for path, listener in (("/kept/a", kept), ("/plain", plain)):
        here.sent(path, "1")
        listener.messages("1")


def test_a_wrong_password_is_said_and_not_shown(own_redis, site, listen):
    server = own_redis(requirepass="right")
    here = site(server.url.replace("right", "hunter2"))
    found = here.send("/kept/a", "x")
    assert found["outcome"] == "not sent" and "does not take the user and password" in found["why"]
    listener = listen(here, "/kept/a")
    assert raw.read_frame(listener.sock)[0] is Opcode.CLOSE
    listener.sock.close()
    assert here.get("/plain/@@page") == "a page"
    here.program.expect("does not take the user and password of the URL")
    here.program.stop()
    assert "hunter2" not in here.program.log + str(found)


#: All that a worker needs of a single server, as the documentation has it.
ACL = (Path(__file__).parents[2] / "docs" / "topics" / "redis-acl.rst").read_text()
RIGHTS = " ".join(ACL.partition("ACL SETUSER shop on >password ")[2].partition("\n\n")[0].split())


#: Those that no script calls.
DIRECT = "evalsha eval script|load publish subscribe unsubscribe ping select wait srem hgetall"


def test_the_rights_are_those_that_are_used():
    sources = Path(stargate.__file__).parent.glob("backplane/redis/*.py")
    called = {
        name.lower()
        for source in sources
        for name in re.findall(r"redis\.p?call\('([A-Z]+)'", source.read_text())
    }
    given = {each[1:] for each in RIGHTS.split() if each.startswith("+")}
    assert given == called | set(DIRECT.split())


def test_a_user_with_the_rights_that_are_needed_is_enough(own_redis, site, listen, namespace):
    server = own_redis(user=[f"worker on >word {RIGHTS.replace('shop', namespace)}"])
    here = site(server.url.replace("://", "://worker:word@"))
    kept, plain = opened(here, listen)
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    here.back(2)
    goes_on(here, kept, plain)
    kept.sock.close()
    plain.sock.close()
    here.program.stop()
    for word in ("NOPERM", "permission", "can't run this command"):
        assert word not in here.program.log


def test_a_user_who_may_not_publish_has_sent_nothing(own_redis, site, listen, namespace):
    rights = RIGHTS.replace("shop", namespace)
    server = own_redis(user=[f"worker on >word {rights} resetchannels"])
    here = site(server.url.replace("://", "://worker:word@"))
    for _ in range(2):
        found = here.send("/kept/a", "x", key="k")
        assert found["outcome"] == "not sent", "and a repeat is none"
    assert json.loads(here.get("/kept/a/@@history")) == []


def test_over_tls_it_is_the_same(own_redis, site, listen):
    server = own_redis(tls=True, requirepass="word")
    here = site(f"{server.url}?ssl_ca_certs={certificate().authority}")
    kept, plain = opened(here, listen)
    server.restart()
    here.back(2)
    goes_on(here, kept, plain)
