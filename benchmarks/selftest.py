"""Checks the load generator: a server in this file plants one fault at a time, and load must count
exactly that one; against floor it must count none.

``python benchmarks/selftest.py`` builds both into a temporary folder; ``selftest.py LOAD FLOOR``
takes built ones. Standard library only; about half a minute.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN, RSV1, MASKED = 0x80, 0x40, 0x80

#: A fault strikes the listener of this index at this broadcast; from then on LEFT of them remain.
FAULTY, AT, BROADCASTS, LISTENERS = 1, 5, 20, 4
LEFT = BROADCASTS - AT
ALL = BROADCASTS * LISTENERS

#: Of every result; what a case plants is different from these.
CLEAN: dict[str, Any] = {
    "lost": 0,
    "dup": 0,
    "reordered": 0,
    "badlen": 0,
    "badbody": 0,
    "stale": 0,
    "proto_errors": 0,
    "failed": 0,
    "closed": 0,
    "stalled": False,
    "error": "",
}

Result = dict[str, Any]
#: What listener FAULTY is sent in place of a broadcast, given its sequence number.
Fault = Callable[["Server", int, bytes], bytes]


def frame(payload: bytes, opcode: int = TEXT, bits: int = FIN, mask: int = 0) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((bits | opcode, mask | size)) + payload
    return bytes((bits | opcode, mask | 126)) + size.to_bytes(2, "big") + payload


def deflated(payload: bytes, window: int = 15) -> bytes:
    packer = zlib.compressobj(wbits=-window)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Server:
    """Serves /echo, /sub, /pub, /probe and /page as the peers of load do, but for its fault."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.listeners: list[asyncio.StreamWriter] = []
        self.requests: list[str] = []
        self.sources: set[str] = set()
        self.held = b""
        self.pongs: list[bytes] = []
        self.pages = 0
        #: What load has said, once it has ended.
        self.lines: list[Result] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            self.sources.add(writer.get_extra_info("peername")[0])
            path = head.split()[1].split("?")[0]
            if path == "/page":
                await self.serve_pages(reader, writer)
            else:
                writer.write(self.answer(head).encode())
                await self.serve_websocket(path, reader, writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    def answer(self, head: str) -> str:
        """The response to a handshake; the third one may be wrong."""
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        key = fields["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        response = (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nConnection: Upgrade\r\n"
            f"sec-websocket-accept: {accept}\r\n{self.case.extension}\r\n"
        )
        wrong = self.case.handshake
        return wrong(response, accept) if wrong and len(self.requests) == 3 else response

    async def serve_websocket(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        socketio = "--profile" in self.case.options
        if socketio:
            writer.write(frame(b'0{"sid":"1"}'))
        if path.startswith("/sub"):
            self.listeners.append(writer)
        while True:
            opcode, message = await receive(reader)
            if opcode == CLOSE:
                if not (self.case.silent and len(self.requests) == 3):
                    writer.write(frame(message[:2], CLOSE))
                return
            if opcode == PONG:
                self.pongs.append(message)
            elif socketio and message == b"40":
                writer.write(frame(b'40{"sid":"2"}') + frame(b"2"))
            elif message == b"3":
                self.pongs.append(message)
            elif path == "/pub":
                self.broadcast(message.replace(b'42["pub"', b'42["m"'))
            else:
                writer.write(self.echoed(path, message))

    def broadcast(self, message: bytes) -> None:
        phase, sequence = numbers(message)
        for index, writer in enumerate(self.listeners):
            struck = phase and (index == FAULTY or self.case.everywhere)
            fault = self.case.fault if struck and self.case.fault else good
            if not writer.is_closing():
                writer.write(fault(self, sequence, message))

    def echoed(self, path: str, message: bytes) -> bytes:
        source = int(message[16:24], 16) if message[:1] != b"4" else 0
        fault = self.case.echo_fault if path == self.case.echo_path else None
        struck = source == FAULTY or path == "/probe"
        return (fault if fault and struck else good)(self, numbers(message)[1], message)

    async def serve_pages(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.pages += 1
            if self.pages == AT and self.case.page_pause:
                await asyncio.sleep(self.case.page_pause)
            status = self.case.page_status if self.pages == AT else "200 OK"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello".encode())
            await reader.readuntil(b"\r\n\r\n")


def numbers(message: bytes) -> tuple[int, int]:
    """The phase and the sequence number of a message, raw or an event of Socket.IO."""
    payload = message.split(b'","')[-1]
    return int(payload[:8], 16), int(payload[8:16], 16)


async def receive(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    assert size & MASKED, "load masks its frames"
    size &= 127
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    return first & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


# The faults.


def good(server: Server, sequence: int, message: bytes) -> bytes:
    return deflate_all(server, sequence, message) if server.case.extension else frame(message)


def once(strike: Callable[[Server, bytes], bytes]) -> Fault:
    """A fault that strikes broadcast AT and no other."""
    return lambda server, sequence, message: (
        strike(server, message) if sequence == AT else good(server, sequence, message)
    )


def swapped(server: Server, sequence: int, message: bytes) -> bytes:
    if sequence == AT:
        server.held = frame(message)
        return b""
    return frame(message) + (server.held if sequence == AT + 1 else b"")


def paused(server: Server, sequence: int, message: bytes) -> bytes:
    """Nothing for ten broadcasts, then all of them."""
    server.held += frame(message)
    if AT <= sequence < AT + 10:
        return b""
    late, server.held = server.held, b""
    return late


def stalled(server: Server, sequence: int, message: bytes) -> bytes:
    return frame(message) if sequence < AT else b""


def vanished(server: Server, message: bytes) -> bytes:
    server.listeners[FAULTY].close()
    return b""


def too_slow(server: Server, message: bytes) -> bytes:
    server.listeners[FAULTY].write(frame(b"\3\xf5", CLOSE))
    return vanished(server, message)


def deflate_all(server: Server, sequence: int, message: bytes) -> bytes:
    return frame(
        deflated(message, 10 if "bits=10" in server.case.extension else 15), bits=FIN | RSV1
    )


def in_fragments(server: Server, message: bytes) -> bytes:
    """Three fragments with a ping among them, deflated where that was agreed on: no fault."""
    bits, payload = (RSV1, deflated(message)) if server.case.extension else (0, message)
    return (
        frame(payload[:40], bits=bits)
        + frame(payload[40:60], 0, bits=0)
        + frame(b"hi", PING)
        + frame(payload[60:], 0)
    )


def changed(message: bytes, index: int) -> bytes:
    return message[:index] + bytes((message[index] ^ 1,)) + message[index + 1 :]


def of_phase_99(message: bytes) -> bytes:
    return b"%08x" % 99 + message[8:]


DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
FANOUT = ("fanout", "--n", LISTENERS, "--phase", f"k={BROADCASTS},b=300,rate=200")
ECHO = ("echo", "--path", "/echo", "--n", LISTENERS, "--phase", "k=200,b=64,d=2")
CONNECT = ("connect", "--total", 10, "--conc", 1)
PROBED = ("fanout", "--n", 2, "--phase", "k=60,rate=200", "--probe-rate", 100)
ENDED = {"closed": 1, "lost": LEFT, "delivered": ALL - LEFT}


@dataclass(frozen=True)
class Case:
    """One run of load: what the server does wrong, and what load has to say of it."""

    name: str
    options: tuple[object, ...]
    wanted: Result = field(default_factory=dict)
    fault: Fault | None = None
    everywhere: bool = False
    echo_fault: Fault | None = None
    echo_path: str = "/echo"
    handshake: Callable[[str, str], str] | None = None
    silent: bool = False
    extension: str = ""
    page_status: str = "200 OK"
    page_pause: float = 0
    code: int = 0
    check: Callable[[Result, Server], bool] = lambda result, server: True


def fanout(name: str, strike: Callable[[Server, bytes], bytes] | None, **wanted: object) -> Case:
    return Case(name, FANOUT, {"delivered": ALL} | wanted, fault=once(strike) if strike else None)


def packed(name: str, strike: Callable[[Server, bytes], bytes] | None, **wanted: object) -> Case:
    return Case(
        name,
        (*FANOUT, "--deflate"),
        {"delivered": ALL} | wanted,
        fault=once(strike) if strike else None,
        extension=DEFLATE + "\r\n",
    )


def requested(wanted: list[str]) -> Callable[[Result, Server], bool]:
    """Whether the requests to /sub were for these paths."""
    return lambda result, server: (
        sorted(head.split()[1] for head in server.requests if "/sub" in head) == wanted
    )


CASES = (
    fanout("nothing wrong", None),
    fanout("a lost message", lambda s, m: b"", lost=1, delivered=ALL - 1, stalled=True),
    fanout("a duplicate", lambda s, m: frame(m) * 2, dup=1),
    Case("two swapped", FANOUT, {"reordered": 1, "delivered": ALL}, fault=swapped),
    fanout("a wrong byte", lambda s, m: frame(changed(m, 200)), badbody=1),
    fanout("a wrong last byte", lambda s, m: frame(changed(m, 299)), badbody=1),
    fanout("a wrong byte in the first 32", lambda s, m: frame(changed(m, 30)), badbody=1),
    fanout("one byte less", lambda s, m: frame(m[:-1]), badlen=1),
    fanout("one byte more", lambda s, m: frame(m + b"!"), badlen=1),
    fanout("another phase's message", lambda s, m: frame(of_phase_99(m)) + frame(m), stale=1),
    fanout("no number", lambda s, m: frame(b"hello") + frame(m), proto_errors=1),
    fanout("a masked frame", lambda s, m: frame(m, mask=MASKED), proto_errors=1, **ENDED),
    fanout("RSV1 set", lambda s, m: frame(m, bits=FIN | RSV1), proto_errors=1, **ENDED),
    fanout("RSV2 set", lambda s, m: frame(m, bits=FIN | 0x20), proto_errors=1, **ENDED),
    fanout("opcode 3", lambda s, m: frame(m, 3), proto_errors=1, **ENDED),
    fanout("binary for text", lambda s, m: frame(m, BINARY), proto_errors=1, **ENDED),
    fanout("a lonely continuation", lambda s, m: frame(m, 0), proto_errors=1, **ENDED),
    Case(
        "fragments and a ping",
        FANOUT,
        {"pings": 1, "delivered": ALL},
        fault=once(in_fragments),
        check=lambda result, server: server.pongs == [b"hi"],
    ),
    fanout("a close frame", lambda s, m: frame(b"\3\xf3", CLOSE), **ENDED),
    fanout("a lost connection", vanished, **ENDED),
    Case(
        "a stall",
        FANOUT,
        {"stalled": True, "delivered": LISTENERS * AT, "lost": LISTENERS * LEFT},
        fault=stalled,
        everywhere=True,
        check=lambda result, server: result["gap_us"]["max"] > 400_000,
    ),
    Case(
        "a pause",
        FANOUT,
        {"delivered": ALL},
        fault=paused,
        check=lambda result, server: 45_000 < result["gap_us"]["max"] < 200_000,
    ),
    packed("deflate", None),
    packed("deflate in fragments", in_fragments, pings=1),
    packed("RSV2 beside deflate", lambda s, m: frame(m, bits=FIN | 0x20), proto_errors=1, **ENDED),
    packed("a deflated ping", lambda s, m: frame(m[:9], PING, FIN | RSV1), proto_errors=1, **ENDED),
    packed("not deflated, once", lambda s, m: frame(m)),
    packed(
        "wrongly deflated",
        lambda s, m: frame(b"\xff" + m, bits=FIN | RSV1),
        **{"proto_errors": 1, "lost": 1, "delivered": ALL - 1, "stalled": True},
    ),
    packed(
        "deflated from a wrong text",
        lambda s, m: frame(deflated(changed(m, 200)), bits=FIN | RSV1),
        badbody=1,
    ),
    Case(
        "a window of 10 bits",
        (*FANOUT, "--deflate"),
        {"delivered": ALL},
        extension=DEFLATE + "; server_max_window_bits=10\r\n",
    ),
    Case("deflate not accepted", (*FANOUT, "--deflate"), code=3),
    Case("deflate not asked for", FANOUT, code=3, extension=DEFLATE + "\r\n"),
    Case(
        "deflate with context takeover",
        (*FANOUT, "--deflate"),
        code=3,
        extension=DEFLATE.split(";")[0] + "\r\n",
    ),
    Case("a wrong accept", FANOUT, code=3, handshake=lambda r, a: r.replace(a, a[::-1])),
    Case("handshakes", CONNECT, {"delivered": 10}),
    Case(
        "one wrong accept",
        CONNECT,
        {"delivered": 9, "failed": 1, "proto_errors": 1},
        handshake=lambda response, accept: response.replace(accept, accept[:25] + "**="),
    ),
    Case(
        "one 503",
        CONNECT,
        {"delivered": 9, "failed": 1},
        handshake=lambda response, accept: "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    ),
    Case("one close unanswered", CONNECT, {"delivered": 9, "failed": 1}, silent=True),
    Case("echo", ECHO, {"delivered": 200}),
    Case(
        "an echo lost",
        ("echo", "--n", LISTENERS, "--phase", "k=1000000,secs=.3,d=2"),
        {"lost": 1, "stalled": True},
        echo_fault=once(lambda s, m: b""),
    ),
    Case("an echo twice", ECHO, {"dup": 1}, echo_fault=once(lambda s, m: frame(m) * 2)),
    Case(
        "a probed send",
        (*PROBED, "--probe-ws", "/probe"),
        {"delivered": 120},
        check=lambda result, server: 29 <= result["probe_us"]["n"] <= 33,
    ),
    Case(
        "a probe lost",
        (*PROBED, "--probe-ws", "/probe"),
        {"lost": 1},
        echo_fault=once(lambda s, m: b""),
        echo_path="/probe",
    ),
    Case(
        "a probed page",
        (*PROBED, "--probe-http", "/page"),
        {"delivered": 120},
        check=lambda result, server: 29 <= result["probe_us"]["n"] <= 33,
    ),
    Case(
        "a page that pauses",  # The pages due meanwhile have waited too.
        (*PROBED, "--probe-http", "/page"),
        page_pause=0.2,
        check=lambda result, server: (
            29 <= result["probe_us"]["n"] <= 33 and result["probe_us"]["p50"] > 60_000
        ),
    ),
    Case(
        "a page not found",
        (*PROBED, "--probe-http", "/page"),
        {"proto_errors": 1, "closed": 1, "lost": None},
        page_status="404 Not Found",
        check=lambda result, server: result["lost"] > 20,
    ),
    Case(
        "a slow listener is closed",
        ("fanout", "--n", 3, "--slow", 2, "--phase", f"k={BROADCASTS},rate=200"),
        {"delivered": BROADCASTS, "slow_closed": 1, "slow_close_codes": {"1013": 1}},
        fault=once(too_slow),
        check=lambda result, server: 0 < result["slow_first_close_s"] < 0.3,
    ),
    Case(
        "a slow listener has a close frame to read",
        ("fanout", "--n", 3, "--slow", 2, "--phase", f"k={BROADCASTS},rate=200"),
        {"delivered": BROADCASTS, "slow_closed": 0, "slow_close_codes": {}},
        fault=once(lambda s, m: frame(b"\3\xf5", CLOSE)),
        check=lambda result, server: server.lines[-1]["slow_close_codes"] == {"1013": 1},
    ),
    Case(
        "paths",
        ("fanout", "--n", 4, "--path", "/sub/x", "--paths", 3, "--phase", "k=9"),
        {"delivered": 36},
        check=requested(["/sub/x/0", "/sub/x/0", "/sub/x/1", "/sub/x/2"]),
    ),
    Case(
        "source addresses",
        (*CONNECT, "--srcs", 3),
        {"delivered": 10},
        check=lambda r, server: server.sources == {f"127.0.0.{i}" for i in (1, 2, 3)},
    ),
    Case(
        "headers",
        (*CONNECT, "--header", "Origin: http://a", "--header", "X-B: c d"),
        {"delivered": 10},
        check=lambda r, s: all("Origin: http://a\r\nX-B: c d\r\n\r\n" in h for h in s.requests),
    ),
    Case(
        "Socket.IO",
        ("fanout", "--n", 3, "--profile", "sio", "--phase", "k=30,b=300,win=4"),
        {"delivered": 90},
        check=lambda result, server: server.pongs == [b"3"] * 4,
    ),
    Case(
        "a wrong byte in Socket.IO",
        ("fanout", "--n", 3, "--profile", "sio", "--phase", "k=30,b=300"),
        {"delivered": 90, "badbody": 1},
        fault=once(lambda s, m: frame(changed(m, 200))),
    ),
    Case("Socket.IO's echo", (*ECHO, "--profile", "sio"), {"delivered": 200}),
)

#: Runs against floor, and how much they deliver at least.
CLEAN_RUNS = (
    (("fanout", "--n", 500, "--phase", "k=40", "--phase", "k=20,b=70000,win=4"), 10_000),
    (("fanout", "--n", 50, "--binary", "--phase", "k=20,b=1024,rate=100"), 1_000),
    (("echo", "--n", 50, "--phase", "k=5000,d=8", "--phase", "k=500,b=16384"), 500),
    (("connect", "--total", 200, "--repeat", 2), 200),
)

#: Command lines that are refused.
REFUSED = (
    "", "fan --port 1", "fanout", "fanout --port x", "fanout --port 0", "fanout --port 70000",
    "echo --port 9 --n 0", "echo --port 9 --n 1.5", "echo --port 9 --host example.org",
    "echo --port 9 more", "echo --port 9 --phase k", "echo --port 9 --phase b=31",
    "echo --port 9 --phase x=1",
    "echo --port 9 --path sub", "fanout --port 9 --n 2 --slow 2", "idle --port 9 --probe-ws /a",
    "echo --port 9 --profile stomp", "echo --port 9 --timeout nan", 'echo --port 9 --phase tag="',
)  # fmt: skip


async def run(load: Path, *options: object, stdin: bytes = b"") -> tuple[int, list[Result], str]:
    """Run load to its end: the exit code, its lines, and what it said on stderr."""
    pipe = asyncio.subprocess.PIPE
    words = [str(word) for word in options]
    process = await asyncio.create_subprocess_exec(
        load, *words, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), 30)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, [json.loads(line) for line in out.splitlines()], err.decode()


def differences(result: Result, wanted: Result) -> str:
    """What is not as wanted; a None is not compared."""
    everything = CLEAN | wanted
    if wanted:
        del everything["error"]  # It says what was wrong.
    wrong = [
        f"{name} is {result.get(name)!r}, not {value!r}"
        for name, value in everything.items()
        if value is not None and result.get(name) != value
    ]
    return ", ".join(wrong)


async def run_case(load: Path, case: Case) -> str:
    server = Server(case)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        mode, *options = case.options
        code, lines, said = await run(load, mode, "--port", port, "--timeout", 0.5, *options)
    if code != case.code:
        return f"exit code {code}, not {case.code}: {said}"
    if code:
        return "" if len(said.splitlines()) == 1 else f"it says {said!r}"
    server.lines = lines
    result = next(line for line in lines if line["event"] == "result")
    if not case.check(result, server):
        return f"not as it should be: {result}"
    return differences(result, case.wanted)


async def run_clean(load: Path, port: int, options: tuple[object, ...], delivered: int) -> str:
    mode, *rest = options
    code, lines, said = await run(load, mode, "--port", port, *rest)
    wrong = [differences(line, {}) for line in lines] + [said]
    if code or not lines or any(line["delivered"] < delivered for line in lines):
        wrong.append(f"exit code {code}, {lines}")
    return ", ".join(filter(None, wrong))


async def run_in_step(load: Path, port: int) -> str:
    """With --sync it waits for a line before each phase, and ends with stdin; idle likewise."""
    options = ("--port", port, "--n", 5, "--sync", "--repeat", 3)
    _, lines, _ = await run(load, "fanout", *options, "--phase", "k=3", stdin=b"\n\n")
    events = [line["event"] for line in lines]
    if events != ["connected", *["ready", "result"] * 2, "ready"]:
        return f"fanout --sync says {events}"
    _, lines, _ = await run(load, "idle", "--port", port, "--n", 50, stdin=b"\n")
    if [line["event"] for line in lines] != ["connected", "ready", "result"]:
        return f"idle says {lines}"
    return "" if (lines[2]["open"], lines[2]["closed"]) == (50, 0) else f"idle says {lines[2]}"


async def run_refused(load: Path, words: str) -> str:
    code, lines, said = await run(load, *words.split())
    return "" if code == 2 and not lines and said.count("\n") == 1 else f"{code}, {said!r}"


async def check(load: Path, floor: Path) -> int:
    wrong: list[str] = []

    def tell(name: str, difference: str) -> None:
        if difference:
            wrong.append(name)
        print(f"{'WRONG' if difference else 'ok':6}{name}{': ' * bool(difference)}{difference}")

    for case in CASES:
        tell(case.name, await run_case(load, case))
    for words in REFUSED:
        tell(f"refused: load {words}", await run_refused(load, words))
    process = await asyncio.create_subprocess_exec(floor, "0", stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout
        port = int(await process.stdout.readline())
        for options, delivered in CLEAN_RUNS:
            name = "floor: " + " ".join(map(str, options))
            tell(name, await run_clean(load, port, options, delivered))
        tell("floor: in step with stdin", await run_in_step(load, port))
    finally:
        process.kill()
        await process.wait()
    print(f"{len(wrong)} wrong: {', '.join(wrong)}" if wrong else "all as it should be")
    return 1 if wrong else 0


def main() -> int:
    if len(sys.argv) == 3:
        return asyncio.run(check(Path(sys.argv[1]), Path(sys.argv[2])))
    with tempfile.TemporaryDirectory() as folder:
        for name, libraries in (("load", ["-lz"]), ("floor", [])):
            command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", f"{folder}/{name}"]
            subprocess.run([*command, str(HERE / f"{name}.c"), *libraries], check=True)
        return asyncio.run(check(Path(folder, "load"), Path(folder, "floor")))


if __name__ == "__main__":
    sys.exit(main())
