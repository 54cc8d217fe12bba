"""A process with callbacks, one event at a time."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import Lost, PillionError
from .events import Call, Cast, Event, Gap, reason_of
from .process import Process
from .threads import contained

if TYPE_CHECKING:
    from .client import Client

log = logging.getLogger("pillion")
_S = TypeVar("_S", bound="GenServer")
CLOSE_SECONDS = 5.0
"""How long a callback may go on when its app ends."""


class _NoReply:
    __slots__ = ()

    def __repr__(self) -> str:
        return "NOREPLY"


NOREPLY = _NoReply()
"""What `handle_call` returns when the reply comes later, by the call's own `reply`."""


class GenServer:
    """Derive from it, and start it with `start`. Every callback may be a plain method or a coroutine.

    Plain methods run on the event loop: one that blocks holds the whole app, unless it was started with `threads=True`; then they run in
    a thread of the server's own. An error in a callback ends the server, with the reason `CLASS: TEXT`, after `terminate`; in
    `handle_call` the caller hears it first.
    """

    app: Client
    process: Process

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Runs first, with what `start` was given; again after the app had left a draining node and found another one."""

    def handle_call(self, request: Any, call: Call) -> Any:
        """Returns the reply, or `NOREPLY`: then `call.reply` is called later, from anywhere."""
        raise NotImplementedError(f"{type(self).__name__} does not answer calls: {request!r}")

    def handle_cast(self, request: Any) -> Any:
        """A request that wants no answer."""
        raise NotImplementedError(f"{type(self).__name__} takes no casts: {request!r}")

    def handle_info(self, event: Event) -> Any:
        """Everything else: messages, `Down`, `Exit`, `Gap` and so on. Logs a gap and passes over the rest, unless overridden."""
        if isinstance(event, Gap):
            log.warning("%s: messages are missing: %r", self, event)

    def terminate(self, reason: str) -> Any:
        """Runs last, whatever the reason."""

    @classmethod
    async def start(
        cls: type[_S],
        parent: Process,
        *args: Any,
        name: str | None = None,
        label: str | None = None,
        link: bool = False,
        trap_exit: bool = False,
        threads: bool = False,
        **kwargs: Any,
    ) -> _S:
        """Starts a server in a process of its own, and gives it once `init` is done. An error in `init` is raised, and the process ends.

        `parent` is the client or one of its processes; with `link` the two are tied together.
        """
        server = cls._made(args, kwargs, threads)
        process = await parent.spawn(name=name, label=label or cls.__name__, link=link, trap_exit=trap_exit)
        await server._enter(process)
        return server

    @classmethod
    def _made(cls: type[_S], args: tuple[Any, ...], kwargs: dict[str, Any], threads: bool) -> _S:
        server = cls.__new__(cls)
        server._prepare(args, kwargs, threads)
        server.__init__()  # type: ignore[misc]
        return server

    async def _enter(self, process: Process) -> None:
        """Runs in this process, which may be the app's own, once `init` is done."""
        self.process, self.app = process, process.client
        process._on_end = self._on_end
        process.mailbox.sink(self._on_event)
        try:
            await self._call(self.init, *self._args, **self._kwargs)
        except BaseException as error:
            await self._exit(reason_of(error))
            raise
        self.app._servers[self] = None
        self._go_on()

    async def _exit(self, reason: str) -> None:
        if self.process is self.app:
            await self.app._exit_own(reason)
        else:
            await self.process.exit(reason)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any], threads: bool) -> None:
        self._args, self._kwargs = args, kwargs
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._queue: deque[Event] = deque()
        self._busy = True
        self._resting = False
        self._reason: str | None = None
        self._terminated = False
        self._done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=type(self).__name__) if threads else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid}>"

    @property
    def pid(self) -> str:
        """The pid, as it is now."""
        return self.process.pid if "process" in self.__dict__ else "(not started)"

    def stop(self, reason: str = "normal") -> None:
        """Ends the server after what it is doing now: `terminate`, then its process exits with the reason."""
        if threading.get_ident() != self._loop_thread:
            self._loop.call_soon_threadsafe(self.stop, reason)
            return
        if self._reason is None:
            self._reason = reason
        if not self._busy:
            self._busy = True
            self._work(self._end(self._reason))

    async def wait(self) -> str:
        """Waits for its end, and gives the reason."""
        return await asyncio.shield(self._done)

    # How events are handled: without a task for as long as callbacks are plain and the socket takes the replies.

    def _on_event(self, event: Event) -> None:
        self._queue.append(event)
        if not self._busy:
            self._go_on()

    def _go_on(self) -> None:
        self._busy = True
        queue, mailbox = self._queue, self.process.mailbox
        while self._reason is None and queue:
            event = queue.popleft()
            rest = self._begin(event)
            if rest is not None:
                self._work(self._go_on_waiting(event, rest))
                return
            if event.counted:
                mailbox.consumed()
        if self._reason is not None:
            self._work(self._end(self._reason))
            return
        mailbox.tell()
        self._busy = False

    async def _go_on_waiting(self, event: Event, rest: Awaitable[Any]) -> None:
        queue, mailbox = self._queue, self.process.mailbox
        waiting: Awaitable[Any] | None = rest
        while True:
            if waiting is not None:
                await waiting
            if event.counted:
                mailbox.consumed()
            if self._reason is not None or not queue:
                break
            event = queue.popleft()
            waiting = self._begin(event)
        self._go_on()

    def _work(self, work: Any) -> None:
        self._worker = asyncio.get_running_loop().create_task(work, name=f"pillion: {self!r}")

    def _begin(self, event: Event) -> Awaitable[Any] | None:
        """Handles an event, at once or as what it returns."""
        try:
            if isinstance(event, Call):
                if self.app._sync is not None:
                    from .sync import _shown

                    _shown(event)
                result = self._run(self.handle_call, event.body, event)
            elif isinstance(event, Cast):
                result = self._run(self.handle_cast, event.body)
            else:
                result = self._run(self.handle_info, event)
            if inspect.isawaitable(result):
                return self._rest(event, result)
            if isinstance(event, Call) and result is not NOREPLY and not event._reply_now(result):
                return self._reply(event, result)
        except Exception as error:
            return self._failed(event, error)
        return None

    async def _rest(self, event: Event, result: Awaitable[Any]) -> None:
        try:
            value = await result
            if isinstance(event, Call) and value is not NOREPLY:
                await self._reply(event, value)
        except Exception as error:
            await self._failed(event, error)

    async def _reply(self, event: Call, value: Any) -> None:
        try:
            await event._reply(value)
        except Lost as error:  # That is the caller's misfortune: the server and its state go on.
            log.warning("%r: its caller cannot hear its reply: %s", self, error)
        except Exception as error:
            await self._failed(event, error)

    async def _failed(self, event: Event, error: Exception) -> None:
        log.error("%r ends by an error in a callback", self, exc_info=error)
        if isinstance(event, Call):
            try:
                await event._fail(error)
            except PillionError as lost:
                log.warning("%r: its caller cannot hear that: %s", self, lost)
        if self._reason is None:
            self._reason = reason_of(error)

    async def _end(self, reason: str) -> None:
        await self._terminate(reason)
        try:
            if not self.app._session.closing:
                await self._exit(reason)
        except PillionError as error:
            log.debug("%r: its end was not told: %s", self, error)
        self._over(reason)

    async def _terminate(self, reason: str) -> None:
        if self._terminated:
            return
        self._terminated = True
        try:
            await self._call(self.terminate, reason)
        except Exception as error:
            log.error("%r: an error in `terminate`", self, exc_info=error)

    def _over(self, reason: str) -> None:
        self.app._servers.pop(self, None)
        if not self._done.done():
            self._done.set_result(reason)
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _on_end(self, reason: str) -> None:
        """Its process is gone. Where that is not its own doing, it ends without telling."""
        if self._reason is None:
            self._reason = reason
            if not self._busy:
                self._busy = True
                self._work(self._end(reason))

    def _run(self, callback: Callable[..., Any], *args: Any) -> Any:
        if self._thread is None or inspect.iscoroutinefunction(callback):
            return callback(*args)
        return asyncio.get_running_loop().run_in_executor(self._thread, contained, callback, *args)

    async def _call(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = self._run(lambda: callback(*args, **kwargs)) if not inspect.iscoroutinefunction(callback) else callback(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    # Leaving a node, and the next one

    async def _leave(self) -> None:
        """Answers what it was given, and rests. Its process exits `shutdown`; it begins anew on the next node."""
        given = self.app._session.given
        while self._reason is None and (self._busy or self.process in given.values()):
            await asyncio.sleep(0.01)
        if self._reason is not None:
            return
        self._busy = self._resting = True
        await self._terminate("shutdown")
        session = self.app._session
        if session.conn is not None and self.process is not self.app:
            await session.request({"op": "exit", "pid": self.process.pid, "reason": "shutdown"})

    async def _begin_anew(self) -> None:
        """There is a node again."""
        if not self._resting:
            return
        self._resting = self._terminated = False
        try:
            await self._call(self.init, *self._args, **self._kwargs)
        except Exception as error:
            log.error("%r ends by an error in `init`", self, exc_info=error)
            self._reason = reason_of(error)
        self._go_on()

    async def _close(self, by: asyncio.Task[Any] | None) -> None:
        """The app is ended by this task: what is done now is finished, and then `terminate`. What takes longer than 5 s is cancelled."""
        if self._reason is None:
            self._reason = "shutdown"
        worker = self._worker
        if self._busy and not self._resting and worker is not None and worker is not by and not worker.done():
            # Once it is done with its event another task may have to end the server: `_done` is when both are.
            over, _ = await asyncio.wait([self._done], timeout=CLOSE_SECONDS)
            if over:
                return
            log.warning("%r: its callback has not ended within %g s; it is not waited for", self, CLOSE_SECONDS)
            if self._worker is not None:
                self._worker.cancel()
            if self._thread is not None:
                self._terminated = True  # The callback has its only thread.
        if not self._resting:
            await self._terminate(self._reason)
        self._over(self._reason)


__all__ = ["NOREPLY", "GenServer"]
