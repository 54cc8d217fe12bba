"""Commands out: written at once while there is a connection with room, else when there is one again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .errors import Closed, Lost
from .frames import ABSENT, body_bytes, frame, header_bytes, raw_frame, uint
from .pending import Answer, Header, OnOk, OnPart, Pending, Waiting

if TYPE_CHECKING:
    from .process import Process

WAIT_SECONDS = 10.0
"""How long what has no deadline of its own waits for a connection."""


class Outgoing:
    """What a session writes, and who waits for what is answered."""

    def __init__(self) -> None:
        self.pending = Pending()
        self.conn: Connection | None = None
        """The connection, while the app may write to it."""
        self._link: Connection | None = None
        """The connection, from its first byte on."""
        self._open: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.closing = False

    async def write(self, header: Header, body: bytes) -> None:
        """Writes a command without an answer, once there is a connection and room."""
        await self.write_raw(header_bytes(header), body)

    async def write_raw(self, header: bytes, body: bytes) -> None:
        conn = self.conn
        if conn is None or conn.is_full or conn.is_long:
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
        """The connection, once there is one that takes more. Raises `Lost` when there is none by the deadline, or within 10 s."""
        loop = asyncio.get_running_loop()
        if deadline is None:
            deadline = loop.time() + WAIT_SECONDS
        while True:
            if self.closing:
                raise Closed("the client is closed")
            conn = self.conn
            if conn is None:
                if self._open is None:
                    self._open = loop.create_future()
                try:
                    await asyncio.wait_for(asyncio.shield(self._open), deadline - loop.time())
                except (TimeoutError, asyncio.TimeoutError):
                    raise Lost("there was no connection to the node in time; nothing was done") from None
            elif conn.is_long:
                conn.flush()
                await asyncio.sleep(0)
            elif conn.is_full:
                if self._room is None:
                    self._room = loop.create_future()
                await asyncio.shield(self._room)
            else:
                return conn

    def _on_room(self) -> None:
        self._wake_room()

    def _wake_room(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

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
    ) -> Answer:
        """Writes a command with an `id` and waits for its answer. With a `timeout` that is how long it waits for a connection too."""
        raw = body_bytes(body, ct)
        if ct is not None:
            header = {**header, "ct": ct}
        deadline = None
        if timeout is not None:
            deadline = asyncio.get_running_loop().time() + timeout
        conn = self.conn
        if conn is None or conn.is_full or conn.is_long:
            conn = await self.ready(deadline)
            if deadline is not None and "timeout_ms" in header:
                left = deadline - asyncio.get_running_loop().time()
                header = {**header, "timeout_ms": max(1, int(left * 1000))}
        return await self.post(header, raw, conn, deadline, on_part, on_ok)

    async def call_raw(self, prefix: bytes, suffix: bytes, body: bytes, timeout: float) -> Answer:
        """The same for a header that was encoded before: `prefix`, the `id`, `suffix`."""
        loop = asyncio.get_running_loop()
        conn = self.conn
        deadline = loop.time() + timeout
        if conn is None or conn.is_full or conn.is_long:
            conn = await self.ready(deadline)
        pending = self.pending
        id = pending.id()
        raw = raw_frame(prefix + uint(id) + suffix, body)
        pending.written += 1
        answer: asyncio.Future[Answer] = loop.create_future()
        pending.waiting[id] = Waiting(answer, pending.written, deadline, None, None)
        conn.write(raw)
        return await answer
