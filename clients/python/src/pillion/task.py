"""A function that runs in a process of its own, linked with the one that waits for its result."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar, cast

from .errors import Closed, Exited, PillionError, Timeout
from .events import reason_of
from .process import Process

log = logging.getLogger("pillion")
T = TypeVar("T")


class Task(Generic[T]):
    """What `task` gives: await it for the result. An error of the function is raised there.

    The function gets its process as the first argument. When its process is killed, or the one that started it ends, it is cancelled, and
    who waits gets `Exited`. A function that fails ends its process with the reason `CLASS: TEXT`; its starter hears that as an exit
    signal only if it traps exits, as it gets the error by waiting.
    """

    def __init__(self, parent: Process, function: Callable[..., Any], args: tuple[Any, ...], label: str | None) -> None:
        self._parent = parent
        self._function = function
        self._args = args
        self._label = label or getattr(function, "__name__", "task")
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[Process] = loop.create_future()
        self._killed: str | None = None
        self._task: asyncio.Task[T] = loop.create_task(self._run(), name=f"pillion: {self._label}")

    def __repr__(self) -> str:
        return f"<Task {self._label}{' done' if self._task.done() else ''}>"

    def __await__(self) -> Generator[Any, None, T]:
        return self.wait().__await__()

    async def started(self) -> Process:
        """The process in which it runs, once it does."""
        return await asyncio.shield(self._started)

    async def wait(self, timeout: float | None = None) -> T:
        """The result. After `timeout` seconds it raises `Timeout`, and the function runs on: wait again, or `cancel`."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._task), timeout)
        except asyncio.CancelledError:
            if self._task.cancelled():
                reason = self._killed or "cancelled"
                raise Exited(f"the task has ended: {reason}", reason=reason, maybe_applied=True) from None
            raise
        except (TimeoutError, asyncio.TimeoutError) as error:
            if isinstance(error, PillionError) or self._task.done():
                raise
            raise Timeout(f"the task has not ended within {timeout:g} s", maybe_applied=True) from None

    def done(self) -> bool:
        """Whether it has ended."""
        return self._task.done()

    def cancel(self) -> None:
        """Ends the function by cancelling it; its process exits `shutdown`."""
        self._killed = self._killed or "shutdown"
        self._task.cancel()

    async def _run(self) -> T:
        try:
            process = await self._parent.spawn(label=self._label, link=True)
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error if isinstance(error, PillionError) else Closed("the task was cancelled"))
                self._started.exception()
            raise
        process._on_end = self._on_end
        self._started.set_result(process)
        try:
            result = self._function(process, *self._args)
            value = cast(T, await result if inspect.isawaitable(result) else result)
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            await self._end(process, "shutdown" if cancelled else reason_of(error), quietly=True)
            raise
        await self._end(process, "normal", quietly=False)
        return value

    async def _end(self, process: Process, reason: str, quietly: bool) -> None:
        if process.exit_reason is not None:
            return
        parent = self._parent
        try:
            if quietly and not parent._traps_exits and parent.client._session.conn is not None:
                await parent.unlink(process.pid)
            await process.exit(reason)
        except PillionError as error:
            log.debug("%r: its end was not told: %s", self, error)
        finally:
            parent._links.discard(process.pid)

    def _on_end(self, reason: str) -> None:
        if not self._task.done() and self._killed is None and reason not in ("normal",):
            self._killed = reason
            self._task.cancel()
