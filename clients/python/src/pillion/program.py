"""A program that is one GenServer, as a supervisor wants it: its end is the program's, and the status says how it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from . import draining
from .client import Client
from .errors import PillionError
from .events import reason_of
from .gen_server import GenServer

if TYPE_CHECKING:
    from types import FrameType


def run(
    server: type[GenServer],
    /,
    *args: Any,
    name: str | None = None,
    socket: str | os.PathLike[str] | None = None,
    grace: float = 0.0,
    timeout: float = 10.0,
    trap_exit: bool = False,
    threads: bool = False,
    **kwargs: Any,
) -> NoReturn:
    """Is the whole program of one GenServer: connects, starts it with `init(*args, **kwargs)`, and exits when it ends.

    The server is the app's own process, registered as `name`; of a program that a node hosts it is the hosted process, which has its name
    already. The status is 0 when it ended with `normal`, `shutdown` or `shutdown: ...`, else 1, and a line on standard error says why.
    At SIGTERM and SIGINT, and when the node is about to leave, it answers what it was given, runs `terminate("shutdown")` and exits with 0.
    A hosted program whose node is gone ends with `noconnection`.

    `socket`, `grace` and `timeout` are those of `connect`. To be called in the main thread, outside of an event loop.
    """
    with _Signals() as signals:
        program = Program(server, args, kwargs, name, trap_exit, signals)
        status = asyncio.run(program.main(lambda: Client(socket, name=name, grace=grace, connect_timeout=timeout, threads=threads)))
    sys.exit(status)


class _Signals:
    """SIGTERM and SIGINT ask the program to stop. Works for a loop in another thread too."""

    def __init__(self) -> None:
        self._asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def tell(self, stop: Callable[[], None]) -> None:
        """From now on this is called, on the running loop; at once when there was a signal before."""
        self._loop, self._stop = asyncio.get_running_loop(), stop
        if self._asked:
            stop()

    def _on(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
                self._loop.call_soon_threadsafe(self._stop)


class Program:
    """What `run` runs."""

    def __init__(
        self, server: type[GenServer], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None, trap_exit: bool, signals: _Signals
    ) -> None:
        self._class, self._args, self._kwargs = server, args, kwargs
        self._name, self._trap_exit, self._signals = name, trap_exit, signals
        self.is_hosted = bool(os.environ.get("PILLION_PROCESS"))
        self._server: GenServer | None = None
        self._over: str | None = None

    async def main(self, connect: Callable[[], Client]) -> int:
        """Gives the status."""
        title = self._name or os.environ.get("PILLION_NAME") or self._class.__name__
        try:
            reason = await self._serve(connect())
        except _CannotStart as error:
            return _failed(f"{title} cannot start: {error}")
        if reason in ("normal", "shutdown") or reason.startswith("shutdown:"):
            return 0
        return _failed(f"{title} has ended: {reason}")

    async def _serve(self, client: Client) -> str:
        asked = asyncio.Event()
        stopping = asyncio.ensure_future(asked.wait())
        self._signals.tell(asked.set)
        client._program = self
        client._callbacks["draining"] = asked.set
        starting = asyncio.ensure_future(self._start(client))
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
            if starting.cancelled():
                return "shutdown"
            server = starting.result()
            if isinstance(server, str):
                return server
            ended = asyncio.ensure_future(server.wait())
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await draining.leave(client)
                if server._reason is None:
                    await client.close()
            return await ended
        finally:
            stopping.cancel()
            await client.close()

    async def _start(self, client: Client) -> GenServer | str:
        """The server, or the reason of its end."""
        try:
            await client._start()
            if self._trap_exit:
                await client.flag(trap_exit=True)
            if self._name is not None and not (self.is_hosted and os.environ.get("PILLION_NAME") == self._name):
                await client.register(self._name)
        except PillionError as error:
            raise _CannotStart(error) from error
        server = self._class._made(self._args, self._kwargs, client._threads)
        try:
            await server._enter(client)
        except Exception as error:
            return reason_of(error)
        self._server = server
        if self._over is not None:
            self.over(self._over)
        return server

    def over(self, reason: str) -> None:
        """The process has died, or its node is gone: nothing more is to be told to a node."""
        self._over = reason
        if self._server is not None:
            self._server._on_end(reason)


class _CannotStart(Exception):
    pass


def _failed(line: str) -> int:
    print(" ".join(line.split()), file=sys.stderr, flush=True)
    return 1


__all__ = ["run"]
