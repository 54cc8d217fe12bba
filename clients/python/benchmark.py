"""What the client costs, beside the raw protocol, the least that it could cost, and NATS.

Each role runs in an operating system process of its own: this file starts itself. `python benchmark.py [WHAT[-AGAINST]...]` picks rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from cbor2 import dumps, loads

import pillion
from pillion import Call, GenServer

SIZES = (64, 1024)
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
WARM = SECONDS / 10
SUBJECT = f"bench.{os.environ.get('BENCH_RUN', os.getpid())}"


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


class Rate:
    """Counts what arrives, from a tenth of the time on, and says the rate once the time is over."""

    def __init__(self) -> None:
        self.begin = self.first = self.count = 0.0
        self.over = False

    def arrived(self, n: int) -> None:
        now = time.perf_counter()
        if not self.begin:
            self.begin = now
        if not self.first:
            if now - self.begin >= WARM:
                self.first = now
            return
        self.count += n
        if now - self.first >= SECONDS and not self.over:
            self.over = True
            say(per_s=round(self.count / (now - self.first)))


def times(took: list[float]) -> dict[str, Any]:
    """The numbers of calls that took so many seconds."""
    ordered = sorted(took)
    return {
        "p50_us": round(ordered[len(ordered) // 2] * 1e6, 1),
        "p99_us": round(ordered[len(ordered) * 99 // 100] * 1e6, 1),
        "per_s": round(len(took) / sum(took)),
    }


def measure(call: Callable[[], object]) -> dict[str, Any]:
    end = time.perf_counter() + WARM
    while time.perf_counter() < end:
        call()
    took: list[float] = []
    end = time.perf_counter() + SECONDS
    while (begin := time.perf_counter()) < end:
        call()
        took.append(time.perf_counter() - begin)
    return times(took)


async def measure_async(call: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    end = time.perf_counter() + WARM
    while time.perf_counter() < end:
        await call()
    took: list[float] = []
    end = time.perf_counter() + SECONDS
    while (begin := time.perf_counter()) < end:
        await call()
        took.append(time.perf_counter() - begin)
    return times(took)


# Frames by hand


def frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    raw = dumps(header)
    return struct.pack(">IH", len(raw) + len(body) + 2, len(raw)) + raw + body


class Frames:
    """A blocking socket, and the frames that come out of it: header and body, both still bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""

    @classmethod
    def to_node(cls, variable: str) -> Frames:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.environ[variable])
        return cls(sock)

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        """What one read gives."""
        data = self.sock.recv(262_144)
        if not data:
            sys.exit(0)
        data, at = self.rest + data, 0
        while len(data) - at >= 6:
            size, header = struct.unpack_from(">IH", data, at)
            if len(data) - at < 4 + size:
                break
            yield data[at + 6 : at + 6 + header], data[at + 6 + header : at + 4 + size]
            at += 4 + size
        self.rest = data[at:]

    def ask(self, header: dict[str, Any]) -> dict[str, Any]:
        self.sock.sendall(frame({**header, "id": 1}))
        while True:
            for raw, _ in self.read():
                answer: dict[str, Any] = loads(raw)
                if answer.get("id") == 1:
                    return answer


# Roles: who responds and receives prints its address first.


class Echo(GenServer):
    def handle_call(self, request: Any, call: Call) -> Any:
        return request


async def pillion_responder() -> None:
    async with pillion.connect(os.environ["PILLION_B"]) as app:
        say(at=(await app.start(Echo)).pid)
        await asyncio.Event().wait()


async def pillion_call(size: int, at: str) -> None:
    async with pillion.connect(os.environ["PILLION_A"]) as app:
        body = bytes(size)
        say(**await measure_async(lambda: app.call(at, body)))


async def pillion_receiver() -> None:
    async with pillion.connect(os.environ["PILLION_B"]) as app:
        await app.flag(mailbox={"policy": "wait"})
        say(at=app.pid)
        rate = Rate()
        async for event in app:
            assert event.body is not None
            rate.arrived(1)


async def pillion_subscriber() -> None:
    async with pillion.connect(os.environ["PILLION_B"]) as app, app.subscribe(SUBJECT, sync=True) as sub:
        await sub.process.flag(mailbox={"policy": "wait"})
        say(at=SUBJECT)
        rate = Rate()
        async for message in sub:
            assert message.body is not None
            rate.arrived(1)


async def pillion_sender(size: int, at: str) -> None:
    async with pillion.connect(os.environ["PILLION_A"]) as app:
        body = bytes(size)
        while True:
            await app.send(at, body)


async def pillion_publisher(size: int, at: str) -> None:
    async with pillion.connect(os.environ["PILLION_A"]) as app:
        body = bytes(size)
        while True:
            await app.publish(at, body)


def raw_responder() -> None:
    frames = Frames.to_node("PILLION_B")
    say(at=frames.ask({"op": "self"})["pid"])
    while True:
        for header, body in frames.read():
            ref = header[header.index(b"\x63ref") + 4 :]
            reply = b"\xa2\x62op\x65reply\x63ref" + ref
            frames.sock.sendall(struct.pack(">IH", len(reply) + len(body) + 2, len(reply)) + reply + body)


def raw_call(size: int, at: str) -> None:
    frames = Frames.to_node("PILLION_A")
    command = frame({"op": "call", "id": 1, "to": at}, dumps(bytes(size)))

    def call() -> None:
        frames.sock.sendall(command)
        while not list(frames.read()):
            pass

    say(**measure(call))


def raw_receiver(subscribe: bool = False) -> None:
    frames = Frames.to_node("PILLION_B")
    at = frames.ask({"op": "self"})["pid"]
    frames.ask({"op": "flag", "mailbox": {"policy": "wait"}})
    if subscribe:
        at = SUBJECT
        frames.ask({"op": "subscribe", "topic": SUBJECT, "sync": True})
    say(at=at)
    rate = Rate()
    while True:
        n = sum(1 for _ in frames.read())
        if n:
            rate.arrived(n)


def raw_sender(size: int, at: str, publish: bool = False) -> None:
    frames = Frames.to_node("PILLION_A")
    header = {"op": "publish", "topic": at} if publish else {"op": "send", "to": at}
    one = frame(header, dumps(bytes(size)))
    many = one * (65_536 // len(one))
    while True:
        frames.sock.sendall(many)


def floor_socket(at: str) -> socket.socket:
    return socket.socket(fileno=int(at))


def floor_responder(at: str) -> None:
    frames = Frames(floor_socket(at))
    while True:
        for header, body in frames.read():
            asked = loads(header)
            frames.sock.sendall(frame({"ev": "ok", "id": asked["id"]}, dumps(loads(body))))


def floor_call(size: int, at: str) -> None:
    frames, body, to, id = Frames(floor_socket(at)), bytes(size), "<b@bench.019b3f0c2a4e5f3c.100>", 0

    def call() -> None:
        nonlocal id
        id += 1
        frames.sock.sendall(frame({"op": "call", "id": id, "to": to}, dumps(body)))
        while not (answers := [(loads(header), loads(body)) for header, body in frames.read()]):
            pass
        assert answers[0][0]["id"] == id

    say(**measure(call))


def floor_receiver(at: str) -> None:
    frames, rate = Frames(floor_socket(at)), Rate()
    while True:
        for header, body in frames.read():
            loads(header)
            loads(body)
            rate.arrived(1)


def floor_sender(size: int, at: str) -> None:
    sock, body, to = floor_socket(at), bytes(size), "<b@bench.019b3f0c2a4e5f3c.100>"
    while True:
        sock.sendall(frame({"op": "send", "to": to}, dumps(body)))


async def nats_responder() -> None:
    import nats

    client = await nats.connect(os.environ["NATS_B"])

    async def answer(message: Any) -> None:
        await message.respond(message.data)

    await client.subscribe(SUBJECT, cb=answer)
    await client.flush()
    say(at=SUBJECT)
    await asyncio.Event().wait()


async def nats_call(size: int, at: str) -> None:
    import nats

    client, body = await nats.connect(os.environ["NATS_A"]), bytes(size)
    while True:
        with contextlib.suppress(nats.errors.Error):
            await client.request(at, body, timeout=5)
            break
    say(**await measure_async(lambda: client.request(at, body, timeout=5)))


async def nats_receiver() -> None:
    import nats

    client, rate = await nats.connect(os.environ["NATS_B"]), Rate()

    async def arrived(_: Any) -> None:
        rate.arrived(1)

    await client.subscribe(SUBJECT, cb=arrived)
    await client.flush()
    say(at=SUBJECT)
    await asyncio.Event().wait()


async def nats_sender(size: int, at: str) -> None:
    import nats

    client, body = await nats.connect(os.environ["NATS_A"]), bytes(size)
    while True:
        for _ in range(100):
            await client.publish(at, body)
        await asyncio.sleep(0)


# What is run for each row: who answers or receives, and who asks or sends.

ROWS: dict[str, dict[str, tuple[str, str]]] = {
    "call": {
        "pillion": ("pillion_responder", "pillion_call"),
        "raw": ("raw_responder", "raw_call"),
        "floor": ("floor_responder", "floor_call"),
        "nats": ("nats_responder", "nats_call"),
    },
    "send": {
        "pillion": ("raw_receiver", "pillion_sender"),
        "raw": ("raw_receiver", "raw_sender"),
        "floor": ("floor_receiver", "floor_sender"),
        "nats": ("nats_receiver", "nats_sender"),
    },
    "receive": {
        "pillion": ("pillion_receiver", "raw_sender"),
        "raw": ("raw_receiver", "raw_sender"),
        "floor": ("floor_receiver", "floor_sender"),
        "nats": ("nats_receiver", "nats_sender"),
    },
    "publish": {
        "pillion": ("pillion_subscriber", "pillion_publisher"),
        "raw": ("raw_subscriber", "raw_publisher"),
        "nats": ("nats_receiver", "nats_sender"),
    },
}


def raw_subscriber() -> None:
    raw_receiver(subscribe=True)


def raw_publisher(size: int, at: str) -> None:
    raw_sender(size, at, publish=True)


def role(name: str, args: list[str]) -> None:
    function: Callable[..., Any] = globals()[name]
    typed: list[Any] = [int(args[0]), *args[1:]] if len(args) > 1 else list(args)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, ConnectionError):
        result = function(*typed)
        if result is not None:
            asyncio.run(result)


def start(*args: str, fd: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, os.path.abspath(__file__), "role", *args]
    env = {**os.environ, "BENCH_RUN": str(os.getpid())}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, pass_fds=() if fd is None else (fd,))


def run_row(first: str, second: str, size: int) -> dict[str, Any]:
    programs: list[subprocess.Popen[str]] = []
    try:
        if first.startswith("floor"):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                programs.append(start(first, str(theirs.fileno()), fd=theirs.fileno()))
                programs.append(start(second, str(size), str(ours.fileno()), fd=ours.fileno()))
        else:
            programs.append(start(first))
            assert programs[0].stdout is not None
            at = json.loads(programs[0].stdout.readline())["at"]
            programs.append(start(second, str(size), at))
        says = programs[1] if second.endswith("_call") else programs[0]
        assert says.stdout is not None
        numbers: dict[str, Any] = json.loads(says.stdout.readline())
        return numbers
    finally:
        for program in programs:
            program.kill()
        for program in programs:
            program.communicate()


def main(wanted: list[str]) -> None:
    if "NATS_A" not in os.environ or "NATS_B" not in os.environ:
        print("there is no NATS_A and NATS_B: nats is left out", file=sys.stderr)
    for what, rows in ROWS.items():
        for size in SIZES:
            for against, (first, second) in rows.items():
                if against == "nats" and "NATS_A" not in os.environ:
                    continue
                if wanted and what not in wanted and f"{what}-{against}" not in wanted:
                    continue
                row = {"client": "python", "what": what, "size": size, "against": against, "p50_us": None, "p99_us": None, "per_s": None}
                try:
                    say(**{**row, **run_row(first, second, size)})
                except (ValueError, KeyError) as error:
                    print(f"{what} of {size} B against {against}: no result ({error})", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["role"]:
        role(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])
