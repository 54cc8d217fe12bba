"""Commands out: written at once while there is a connection with room, else when there is one again."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .errors import Closed, Lost
from .frames import ABSENT, body_bytes, frame, raw_frame, uint
from .pending import Answer, Header, OnOk, OnPart, Pending, Waiting

if TYPE_CHECKING:
    from .acting import Acting
    from .process import Process

WAIT_SECONDS = 10.0
"""How long what has no deadline of its own waits for a connection."""
_TIMED = ("call", "rpc", "multi_call", "sbcast", "wait_for")
"""What has a deadline that the node keeps."""


class _Turn:
    """One who waits to write."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, end: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if end is None else loop.call_at(end, self.wake)
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Outgoing:
    """What a session writes, and who waits for what is answered."""

    def __init__(self) -> None:
        self.pending = Pending()
        self.conn: Connection | None = None
        """The connection, while the app may write to it."""
        self._link: Connection | None = None
        """The connection, from its first byte on."""
        self.queue: deque[_Turn] = deque()
        """Who waits to write, in the order in which it is to be written."""
        self._lost_at = 0.0
        self.closing = False
        self.closed_because = "the client is closed"

    async def write(self, header: Header, body: bytes, by: Acting | None = None) -> None:
        """Writes a command without an answer, once there is a connection and room; with the pid that `by` has then."""
        conn = self.conn
        if conn is None or conn.is_full or conn.is_long or self.queue:
            conn = await self.ready()
        raw = frame(header if by is None else by._acting(header), body)
        self.pending.written += 1
        conn.write(raw)

    async def write_raw(self, header: bytes, body: bytes) -> None:
        conn = self.conn
        if conn is None or conn.is_full or conn.is_long or self.queue:
            conn = await self.ready()
        self.pending.written += 1
        conn.write(raw_frame(header, body))

    def write_more(self, process: Process, n: int) -> None:
        """Tells what was consumed. While nobody can hear it that is not missed."""
        if self._link is None:
            return
        pid = process._field
        self.pending.wrote_more()
        if pid is None:
            self._link.write(raw_frame(b"\xa2\x62op\x64more\x61n" + uint(n), b""))
        else:
            self._link.write(frame({"op": "more", "n": n, "pid": pid}))

    async def ready(self, deadline: float | None = None) -> Connection:
        """The connection, once there is one that takes more and all who waited before have written.

        Raises `Lost` when there is none by the deadline, or within 10 s; while there is one that is full only a deadline ends the wait.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn = _Turn()
        queue = self.queue
        queue.append(turn)
        try:
            while True:
                if self.closing:
                    raise Closed(self.closed_because)
                conn = self.conn
                if conn is not None and queue[0] is turn:
                    if conn.is_long:
                        conn.flush()
                        await asyncio.sleep(0)
                        continue
                    if not conn.is_full:
                        return conn
                end = deadline
                if end is None and conn is None:
                    end = max(began, self._lost_at) + WAIT_SECONDS
                if end is not None and loop.time() >= end:
                    raise Lost("there was no connection to the node in time; nothing was done")
                await turn.wait(end)
        finally:
            queue.remove(turn)
            self._wake()

    def _wake(self, everybody: bool = False) -> None:
        """Something has changed for who waits first, or for all."""
        if everybody:
            for turn in self.queue:
                turn.wake()
        elif self.queue:
            self.queue[0].wake()

    def post(
        self,
        header: Header,
        body: bytes,
        link: Connection | None = None,
        deadline: float | None = None,
        on_part: OnPart | None = None,
        on_ok: OnOk | None = None,
    ) -> asyncio.Future[Answer]:
        """Writes a command with an `id`, without looking for room, and gives what its answer will be."""
        link = link or self._link
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if link is None or link is not self._link:
            answer.set_exception(Lost("there is no connection to the node"))
            return answer
        id = self.pending.id()
        raw = frame({"op": header["op"], "id": id, **header}, body)
        self.pending.written += 1
        self.pending.waiting[id] = Waiting(answer, self.pending.written, deadline, on_part, on_ok)
        link.write(raw)
        return answer

    async def request(
        self,
        header: Header,
        body: Any = ABSENT,
        ct: str | None = None,
        *,
        timeout: float | None = None,
        on_part: OnPart | None = None,
        on_ok: OnOk | None = None,
        by: Acting | None = None,
    ) -> Answer:
        """Writes a command with an `id` and waits for its answer. With a `timeout` that is how long it waits for a connection too.

        With `by` it has the pid of that process, as it is once there is a connection.
        """
        raw = body_bytes(body, ct)
        if ct is not None:
            header = {**header, "ct": ct}
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        conn = self.conn
        if conn is None or conn.is_full or conn.is_long or self.queue:
            conn = await self.ready(deadline)
            if deadline is not None and header["op"] in _TIMED:
                header = {**header, "timeout_ms": max(1, int((deadline - loop.time()) * 1000))}
        if by is not None:
            header = by._acting(header)
        return await self.post(header, raw, conn, deadline, on_part, on_ok)

    async def call_raw(self, conn: Connection, prefix: bytes, suffix: bytes, body: bytes, timeout: float) -> Answer:
        """Writes a call whose header was encoded before, `prefix`, the `id`, `suffix`, and waits for its answer."""
        loop = asyncio.get_running_loop()
        pending = self.pending
        id = pending.id()
        raw = raw_frame(prefix + uint(id) + suffix, body)
        pending.written += 1
        answer: asyncio.Future[Answer] = loop.create_future()
        pending.waiting[id] = Waiting(answer, pending.written, loop.time() + timeout, None, None)
        conn.write(raw)
        return await answer
