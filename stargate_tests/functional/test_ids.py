"""Views with ``ids=True`` on real sockets: objects, ids, and browsers that come back."""

import base64
import json
import threading
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Opcode
from websockets.sync.client import connect

from stargate import BackplaneError, WebSocketView
from stargate_tests import raw
from stargate_tests.functional.test_send import joined
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import wait_until

NAME = "stargate.v1"
OFFER = f"Sec-WebSocket-Protocol: {NAME}"
MIB = 1_048_576


class Remembering(Node):
    history_size = 50_000


class OnOpen(WebSocketView):
    """As it stands."""


class Handler(WebSocketView):
    """Knows nothing of ids."""

    def handler(self, websocket):
        self.context.add_listener(websocket)
        for message in websocket:
            websocket.send(message)


class Twice(WebSocketView):
    def handler(self, websocket):
        self.context.add_listener(websocket)
        self.context.add_listener(websocket)
        for _message in websocket:
            pass


class Elsewhere(WebSocketView):
    """Listens to another address before its own."""

    def on_open(self, websocket):
        self.context["other"].add_listener(websocket)
        self.context.add_listener(websocket)


class Patient(WebSocketView):
    """Tries again, whenever its peer says so, where it could not be reached."""

    def handler(self, websocket):
        while True:
            try:
                self.context.add_listener(websocket)
                break
            except BackplaneError:
                websocket.send("not yet")
                websocket.wait()
        for _message in websocket:
            pass


class Explicit(WebSocketView):
    """A plain view that is told by its peer what that has seen."""

    def handler(self, websocket):
        complete = self.context.add_listener(websocket, since=websocket.wait())
        websocket.send_json(complete)
        for _message in websocket:
            pass


class Price(WebSocketView):
    def on_open(self, websocket):
        self.context.add_listener(websocket, when_slow="latest")


class Oldest(WebSocketView):
    def on_open(self, websocket):
        self.context.add_listener(websocket, when_slow="drop_oldest")


IDS = {
    "": OnOpen,
    "handler-ids": Handler,
    "twice": Twice,
    "elsewhere": Elsewhere,
    "patient": Patient,
}
DROPPING = {"price": Price, "oldest": Oldest}


def configure(config):
    for name, kind in (IDS | DROPPING).items():
        config.add_websocket_view(kind, context=Node, name=name or "ids", ids=True)
    config.add_websocket_view(Explicit, context=Node, name="explicit")


def remembering(**settings):
    return make_app(configure, Remembering(), **settings)


@pytest.fixture(params=[None, "deflate"])
def compression(request):
    return request.param


@pytest.fixture
def server(live_server, compression):
    settings = {"stargate.compression": compression} if compression else {}
    return live_server(remembering(**settings))


def join(server, view="ids", query="", path="/a"):
    url = server.websocket_url(f"{path}/@@{view}") + query
    return connect(url, subprotocols=[NAME], open_timeout=20, max_size=None, max_queue=None)


def hear(peer, count=1):
    return [json.loads(peer.recv(timeout=20)) for _ in range(count)]


def test_each_message_comes_with_its_id(server):
    long = "Grüße 🚪 " * 50
    with join(server) as peer, connect(server.websocket_url("/a")) as plain:
        assert peer.subprotocol == NAME
        joined(server, "/a", 2)
        ids = [
            server.gate.send("/a", long),
            server.gate.send("/a", b"\x00\xff"),
            server.gate.send_json("/a", {"a": [1, None], "b": "ü" * 100}),
        ]
        text, binary, value = hear(peer, 3)
        assert text == {"id": ids[0], "data": long}
        encoded = base64.b64encode(b"\x00\xff").decode()
        assert binary == {"id": ids[1], "data": encoded, "encoding": "base64"}
        assert value == {"id": ids[2], "data": {"a": [1, None], "b": "ü" * 100}}
        assert plain.recv(timeout=20) == long
        assert plain.recv(timeout=20) == b"\x00\xff"
        assert json.loads(plain.recv(timeout=20)) == {"a": [1, None], "b": "ü" * 100}


def test_what_is_for_one_alone_has_no_id(server):
    with join(server, "handler-ids") as peer:
        peer.send("echo")
        assert hear(peer) == [{"data": "echo"}]


def test_without_a_history_there_is_no_id(live_server):
    server = live_server(make_app(configure))
    with join(server) as peer:
        joined(server, "/a", 1)
        assert server.gate.send("/a", "x") is None
        assert hear(peer) == [{"data": "x"}]


def test_a_newcomer_is_told_nothing_of_a_recovery(server):
    server.gate.send(server.application.root["a"], "before")
    with join(server, query="?since=") as peer:
        joined(server, "/a", 1)
        server.gate.send("/a", "after")
        assert [each["data"] for each in hear(peer)] == ["after"]


@pytest.mark.parametrize("view", ["ids", "handler-ids", "twice", "elsewhere"])
def test_who_comes_back_gets_what_it_missed_and_then_what_comes(server, view):
    a = server.application.root["a"]
    seen, *ids = [a.send(str(number)) for number in range(4)]
    with join(server, view, f"?since={quote(seen)}") as peer:
        missed = hear(peer, 4)
        joined(server, "/a", 1)
        ids.append(a.send("4"))
        assert missed[:3] == [{"id": ids[n], "data": str(n + 1)} for n in range(3)]
        assert missed[3] == {"recovered": True, "id": ids[2]}
        assert hear(peer) == [{"id": ids[3], "data": "4"}]


def test_it_may_come_back_to_where_it_was_told_it_stands(server):
    a = server.application.root["a"]
    with join(server, query="?since=last") as peer:
        [told] = hear(peer)
    assert told["recovered"]
    a.send("first")
    with join(server, query=f"?since={told['id']}") as peer:
        assert [each.get("data") for each in hear(peer, 2)] == ["first", None]


def test_the_newest_alone_is_for_who_asks_for_the_last(server):
    a = server.application.root["a"]
    ids = [a.send(each) for each in ("old", "new")]
    with join(server, query="?since=last") as peer:
        assert hear(peer, 2) == [{"id": ids[1], "data": "new"}, {"recovered": True, "id": ids[1]}]


@pytest.mark.parametrize(
    "since",
    ["%ff", "nonsense", "x" * 3000, "%00", "aaaaaaaaaaaa-1-aaaaaaaaaaaa", "-1", "%F0%9F%9A%AA"],
)
def test_what_is_no_id_of_this_history_is_not_recovered(server, since):
    newest = server.application.root["a"].send("kept")
    with join(server, query=f"?since={since}") as peer:
        assert hear(peer) == [{"recovered": False, "id": newest}]


def test_the_id_of_another_address_is_not_recovered(server):
    foreign = server.application.root["b"].send("there")
    server.application.root["a"].send("here")
    with join(server, query=f"?since={foreign}") as peer:
        assert hear(peer)[0]["recovered"] is False


def test_what_is_too_old_is_not_recovered_and_nothing_old_is_sent(live_server):
    root = Remembering()
    root["a"].history_size = 3
    server = live_server(make_app(configure, root))
    ids = [root["a"].send(str(number)) for number in range(10)]
    with join(server, query=f"?since={ids[2]}") as peer:
        assert hear(peer) == [{"recovered": False, "id": ids[-1]}]
    with join(server, query=f"?since={ids[6]}") as peer:
        assert [each.get("data") for each in hear(peer, 4)] == ["7", "8", "9", None]


def test_past_the_limit_it_is_not_recovered(live_server):
    server = live_server(remembering(**{"stargate.recover_limit": "1000"}))
    ids = [server.application.root["a"].send("x" * 600) for _ in range(3)]
    with join(server, query=f"?since={ids[0]}") as peer:
        assert hear(peer) == [{"recovered": False, "id": ids[2]}]
    with join(server, query=f"?since={ids[1]}") as peer:
        assert [each.get("recovered") for each in hear(peer, 2)] == [None, True]


def test_a_plain_view_may_say_itself_what_was_seen(server):
    a = server.application.root["a"]
    first, _second = a.send("1"), a.send("2")
    with connect(server.websocket_url("/a/@@explicit")) as peer:
        peer.send(first)
        assert [peer.recv(timeout=20) for _ in range(2)] == ["2", "true"]
    with connect(server.websocket_url("/a/@@explicit")) as peer:
        peer.send("nonsense")
        assert peer.recv(timeout=20) == "false"


def test_while_others_send_there_is_no_gap_and_no_repeat(server):
    a = server.application.root["a"]
    seen = a.send("0")
    stop = threading.Event()

    def send():
        for number in range(1, 20_000):
            a.send(str(number))
            if stop.is_set():
                break

    sender = threading.Thread(target=send)
    sender.start()
    try:
        expected = 1
        for _ in range(20):
            with join(server, query=f"?since={seen}") as peer:
                told, behind = 0, 0
                while told == 0 or (behind < 20 and expected < 20_000):
                    [found] = hear(peer)
                    if "recovered" in found:
                        assert found["recovered"] is True
                        told += 1
                        continue
                    assert found["data"] == str(expected)
                    expected += 1
                    seen = found["id"]
                    behind += told
                assert told == 1
    finally:
        stop.set()
        sender.join()


def test_who_is_far_behind_gets_all_of_it_at_its_own_pace(live_server):
    """Ten times what closes a slow listener, and what comes meanwhile."""
    server = live_server(remembering(**{"stargate.outbox_size": "200000"}))
    a = server.application.root["a"]
    seen = a.send("seen")
    for number in range(2000):
        a.send(f"{number:05}".ljust(1000))
    path = f"/a/@@ids?since={seen}"
    with raw.connect(server.url, path, OFFER, rcvbuf=4096) as sock:
        joined(server, "/a", 1)
        (websocket,) = server.gate.listeners("/a")
        assert websocket.buffered > 5 * 200_000
        for number in range(2000, 2010):
            a.send(f"{number:05}".ljust(1000))
        found = [json.loads(raw.read_frame(sock)[1]) for _ in range(2011)]
        assert [each.pop("recovered", None) for each in found].index(True) == 2000
        assert [int(each["data"]) for each in found if "data" in each] == list(range(2010))
        assert not websocket.closed


def test_who_reads_slowly_catches_up_while_others_send(live_server):
    server = live_server(remembering(**{"stargate.outbox_size": "200000"}))
    a = server.application.root["a"]
    seen, *missed = [a.send(f"{number:05}".ljust(1000)) for number in range(2001)]
    sent = len(missed)
    with raw.connect(server.url, f"/a/@@ids?since={seen}", OFFER, rcvbuf=4096) as sock:
        joined(server, "/a", 1)
        found = []
        while len(found) < 2001:  # One is sent for each twenty that are read.
            found += [json.loads(raw.read_frame(sock)[1]) for _ in range(20)]
            a.send(f"{sent + 1:05}".ljust(1000))
            sent += 1
        found += [json.loads(raw.read_frame(sock)[1]) for _ in range(sent + 1 - len(found))]
        assert [each.pop("recovered", None) for each in found].index(True) == 2000
        assert [int(each["data"]) for each in found if "data" in each] == list(range(1, sent + 1))


def test_who_could_not_be_reached_at_first_is_sent_what_it_missed(server, monkeypatch):
    a = server.application.root["a"]
    seen, missed = a.send("seen"), a.send("missed")

    def subscribe(*_args):
        raise BackplaneError("not sent", "nobody is there")

    with monkeypatch.context() as broken:
        broken.setattr(server.gate._backplane, "subscribe", subscribe)
        with join(server, "patient", f"?since={seen}") as peer:
            for _ in range(2):
                assert hear(peer) == [{"data": "not yet"}]
                peer.send("again")
            assert hear(peer) == [{"data": "not yet"}]
            broken.undo()
            peer.send("again")
            assert hear(peer, 2) == [
                {"id": missed, "data": "missed"},
                {"recovered": True, "id": missed},
            ]


def test_a_page_that_is_rendered_with_the_position_misses_nothing_after_it(server):
    a = server.application.root["a"]
    a.send("shown")
    position = a.history(limit=1).position
    a.send("in between")
    with join(server, query=f"?since={position}") as peer:
        assert [each.get("data") for each in hear(peer, 2)] == ["in between", None]


@pytest.mark.parametrize("view", DROPPING)
def test_who_is_too_slow_is_told_how_many_it_missed(live_server, view):
    server = live_server(make_app(configure, **{"stargate.outbox_size": "100000"}))
    with raw.connect(server.url, f"/a/@@{view}", OFFER, rcvbuf=4096) as sock:
        joined(server, "/a", 1)
        (websocket,) = server.gate.listeners("/a")
        engine, sent = server.server.engine, 0
        while websocket.missed < 500:
            server.gate.send("/a", f"{sent:07}".ljust(1000))
            sent += 1
            engine.ask_from_thread(lambda: None)
        got, told = 0, []
        while got + sum(told) < sent:
            opcode, payload = raw.read_frame(sock)
            assert opcode is Opcode.TEXT
            found = json.loads(payload)
            got += "data" in found
            told += [found["missed"]] if "missed" in found else []
        wait_until(lambda: not websocket.buffered)
        assert sum(told) == websocket.missed
        assert got + sum(told) == sent


def test_a_handshake_without_the_subprotocol_is_refused_and_says_which(server):
    with pytest.raises(InvalidStatus) as refused:
        connect(server.websocket_url("/a/@@ids"), subprotocols=["other"])
    assert refused.value.response.status_code == 400
    assert NAME.encode() in refused.value.response.body
