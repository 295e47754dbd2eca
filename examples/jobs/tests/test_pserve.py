"""The command of the README: ``pserve`` with development.ini, from its start to its end."""

import json
from urllib.request import Request, urlopen

from websockets.sync.client import connect

DEADLINE = 30


def test_pserve_serves_page_and_websocket_and_ends_on_sigterm(pserve):
    server = pserve()
    url = f"{server.url}/jobs/demo"
    with urlopen(url, timeout=DEADLINE) as page:
        assert b"/static/job.js" in page.read()
    options = {"subprotocols": ["stargate.v1"], "open_timeout": DEADLINE}
    with connect("ws" + url.removeprefix("http"), **options) as client:
        assert json.loads(client.recv(timeout=DEADLINE))["data"]["state"] == "off"
        with urlopen(Request(url, b"state=on", method="POST"), timeout=DEADLINE) as answer:
            assert answer.status == 204
        while json.loads(client.recv(timeout=DEADLINE))["data"]["state"] != "on":
            pass
        assert server.stop() == 0
        for _ in client:
            pass
        assert client.close_code == 1001
    assert '"GET /jobs/demo HTTP/1.1" 101' in server.log
    assert "Traceback" not in server.log
    assert " ERROR " not in server.log
