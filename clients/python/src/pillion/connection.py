"""One connection to the node: frames in, frames out. What they mean is the session's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, cast

from .frames import Malformed, Parser

UNWRITTEN_MAX = 1024 * 1024
"""Bytes that wait to be written before senders wait."""
_JOIN_MAX = 64 * 1024
"""Bytes that are joined before they are written in the middle of a turn of the loop."""

Header = dict[str, Any]


class Connection(asyncio.Protocol):
    """Joins what is written in one turn of the loop into one write, and reads always."""

    def __init__(
        self,
        on_frame: Callable[[Header, bytes], None],
        on_room: Callable[[], None],
        on_lost: Callable[[Connection, str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_room = on_room
        self._on_lost = on_lost
        self._parser = Parser()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._scheduled = False
        self.is_full = False
        """Whether who writes should wait."""
        self._ended = False
        self._why = "it was closed by the node"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNWRITTEN_MAX)

    def data_received(self, data: bytes) -> None:
        on_frame = self._on_frame
        # What is written for these frames goes out at their end, in one write.
        scheduled, self._scheduled = self._scheduled, True
        try:
            for header, raw in self._parser.feed(data):
                on_frame(header, raw)
                if self._transport is None:
                    return
        except Malformed as error:
            self.abort(str(error))
        finally:
            self._scheduled = scheduled
        if self._out:
            self.flush()

    def write(self, frame: bytes) -> None:
        """Appends a frame to what is written at the end of this turn."""
        self._out.append(frame)
        self._out_bytes += len(frame)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    @property
    def is_long(self) -> bool:
        """Whether so much is joined that it should be written now."""
        return self._out_bytes >= _JOIN_MAX

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Writes what was appended."""
        if not self._out or self._transport is None:
            return
        out, self._out = self._out, []
        self._out_bytes = 0
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self._on_room()

    def abort(self, why: str) -> None:
        """Closes it at once; it is lost, and `why` is the reason."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def give_up(self) -> None:
        """Lets go of the socket in a forked child, without a word to the node. The number of the file stays in use."""
        transport, self._transport = self._transport, None
        self._ended = True
        self._out.clear()
        if transport is not None and (there := transport.get_extra_info("socket")) is not None:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, there.fileno(), inheritable=False)
            os.close(null)

    def close(self) -> None:
        """Closes it once everything is written."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        # Nothing that is written from now on would be carried out.
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._why = str(exc)
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._transport = None
            self._out.clear()
            self._on_lost(self, self._why)
