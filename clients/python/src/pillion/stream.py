"""An answer in parts."""

from __future__ import annotations

import asyncio
from typing import Any

from .acting import TIMEOUT, Address, address, milliseconds
from .errors import Overloaded
from .frames import body_value
from .pending import Header
from .process import Process

PARTS_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of parts that wait to be taken out of one stream."""
_PART_BYTES = 128
"""What a part takes beside its bytes."""

_END = object()


class _Parts:
    """What has come and is not taken. It does not know its `Stream`, so that one that is forgotten is let go of."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.value: Any = None
        self.is_open = True
        self.has_overflown = False
        self._bytes = 0

    async def ask(self, process: Process, header: Header, body: Any, ct: str | None, timeout: float) -> None:
        try:
            answer = await process._request(header, body, ct, timeout=timeout, on_part=self._on_part)
            self.value = body_value(*answer)[0]
        finally:
            self.queue.put_nowait(_END)

    def _on_part(self, header: Header, raw: bytes) -> None:
        if not self.is_open:
            return
        size = len(raw) + _PART_BYTES
        if self._bytes + size > PARTS_BYTES_MAX:
            self.is_open = False
            self.has_overflown = True
            self.queue.put_nowait(_END)
            return
        self._bytes += size
        self.queue.put_nowait((body_value(header, raw)[0], size))

    async def take(self) -> Any:
        part = await self.queue.get()
        if part is _END:
            self.queue.put_nowait(_END)  # For whoever asks once more.
            return _END
        value, size = part
        self._bytes -= size
        return value

    def drop(self) -> None:
        self.is_open = False
        while not self.queue.empty():
            self.queue.get_nowait()
        self._bytes = 0


class Stream:
    """An answer in parts: iterate over them; `value` is the last, once they have ended.

    The connection is read always, so parts that come faster than they are taken wait here. Beyond 64 MiB of them the stream is given up:
    what has come may be taken, then `Overloaded` is raised. One that is closed (`async with`, or `close`), or that nobody has any more,
    drops its parts; the callee is not told.
    """

    def __init__(self, process: Process, to: Address, body: Any, timeout: float, ct: str | None) -> None:
        self._parts = _Parts()
        header: Header = {"op": "call", "to": address(to)}
        if timeout != TIMEOUT:
            header["timeout_ms"] = milliseconds(timeout)
        self._task = asyncio.ensure_future(self._parts.ask(process, header, body, ct, timeout))

    @property
    def value(self) -> Any:
        """The last part, once the others are taken; None before."""
        return self._parts.value

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        part = await self._parts.take()
        if part is not _END:
            return part
        if self._parts.has_overflown:
            raise Overloaded(
                f"parts came faster than they were taken, and more than {PARTS_BYTES_MAX >> 20} MiB of them wait; take them sooner, or "
                "let the callee send the next ones only when it is asked for them",
                maybe_applied=True,
            )
        if self._parts.is_open:
            await self._task
        raise StopAsyncIteration

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Takes no more: the parts that have come, and those to come, are dropped. Iterating ends."""
        self._parts.drop()
        self._parts.queue.put_nowait(_END)
        self._task.cancel()

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is not None:
            parts.is_open = False
