"""The client: the app's connection to its node, kept up. It is a process itself."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from . import draining
from .acting import _STAGES, TIMEOUT, Address
from .errors import Closed, Lost, PillionError
from .frames import ABSENT
from .gen_server import GenServer
from .pending import Answer, Header
from .process import Process
from .queries import Queries
from .report import Report
from .serve import Module, Target, functions_of
from .session import Session
from .stream import Stream
from .task import Task
from .topics import GroupWatch, NodeWatch, PresenceWatch, Subscription, Watch

if TYPE_CHECKING:
    from .program import Program

log = logging.getLogger("pillion")
T = TypeVar("T")
_G = TypeVar("_G", bound=GenServer)
_F = TypeVar("_F", bound=Callable[..., Any])
Callback = Callable[..., Any]


class Client(Queries):
    """Made by `connect`. Use it with `async with`, or await it and `close` it.

    All of it runs on one event loop. Its own process is the app's: what is sent to `pid` is received by `receive`, or by iterating
    over the client.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        grace: float = 0.0,
        connect_timeout: float = 10.0,
        threads: bool = False,
        on_draining: Callback | None = None,
        on_drained: Callback | None = None,
        on_failed: Callback | None = None,
        on_report: Callback | None = None,
        on_disconnected: Callback | None = None,
    ) -> None:
        super().__init__(None, "")
        self.client = self
        name = name or os.path.basename(sys.argv[0] if sys.argv else "") or "python"
        path = None if socket is None else os.fspath(socket)
        self._session = Session(self, socket=path, name=name, grace=grace, connect_timeout=connect_timeout)
        self._threads = threads
        self._callbacks = {
            "draining": on_draining, "drained": on_drained, "failed": on_failed, "report": on_report, "disconnected": on_disconnected,
        }  # fmt: skip
        self._servers: dict[GenServer, None] = {}
        self._modules: dict[str, Module] = {}
        self._watches: dict[Watch[Any], None] = {}
        self._relinks: list[tuple[Process, Process]] = []
        self._background: set[asyncio.Future[Any]] = set()
        self._is_drained = False
        self._leaving: asyncio.Task[None] | None = None
        self._drained_event: asyncio.Event | None = None
        self._closing: asyncio.Future[Any] | None = None
        self._started = False
        self._program: Program | None = None
        """What `run` made of this app: the client's own process is its server's."""
        self._sync: object = None
        """The loop's thread, where the app is not on it (`pillion.sync`)."""

    @property
    def node(self) -> str:
        """The name of the node."""
        return self._session.node

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now. There need not be: what is asked for waits for the next one."""
        return self._session.conn is not None

    # Life

    def __await__(self) -> Generator[Any, None, Client]:
        return self._start().__await__()

    async def __aenter__(self) -> Client:
        return await self._start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        await self.close()

    async def _start(self) -> Client:
        if not self._started:
            self._started = True
            self._drained_event = asyncio.Event()
            try:
                await self._session.start()
            except BaseException:
                self._started = False
                raise
            if self._session.draining:
                self._on_draining_event()
            try:
                await asyncio.gather(*(module.open() for module in self._modules.values() if module.process is None))
            except BaseException:
                await self.close()  # Nobody has it who could.
                raise
        return self

    async def close(self) -> None:
        """Ends the app's session: servers run `terminate` with the reason `shutdown`, its processes exit, who waits gets `Closed`."""
        await self._close({"op": "bye"})

    async def _exit_own(self, reason: str) -> None:
        """The server of `run` has ended: the own process exits with its reason, of a hosted program too, and the client is closed."""
        await self._close({"op": "exit"} if reason == "normal" else {"op": "exit", "reason": reason})

    async def _close(self, last: Header) -> None:
        if self._session.closing:
            return
        if self._leaving is not None:
            self._leaving.cancel()
        if self._closing is not None:
            return
        self._closing = asyncio.gather(*(server._close(asyncio.current_task()) for server in list(self._servers)))
        await self._closing
        await self._session.close(last)
        for module in self._modules.values():
            module.cancel_all()
        for process in list(self._session.processes.values()):
            process._on_end = None
            process._ended("normal")
        self.exit_reason = "normal"
        self.mailbox.end()
        if self._drained_event is not None:
            self._drained_event.set()

    async def exit(self, reason: str = "normal") -> None:
        """The app's own process ends, and the session with it."""
        if reason != "normal" and self._session.conn is not None:
            try:
                await self._session.request({"op": "exit", "reason": reason})
            except PillionError:
                pass  # The session is over before it could say so.
        await self.close()

    async def drain(self) -> None:
        """Finishes and leaves the node, as it happens by itself at `draining` where there is no `on_draining`."""
        await draining.leave(self)

    async def drained(self) -> None:
        """Waits until the app has finished because its node is about to leave. Raises `Closed` when it was closed before."""
        await self._start()
        assert self._drained_event is not None
        await self._drained_event.wait()
        if self._session.closing and not self._is_drained:
            raise Closed("the client was closed before its node was about to leave")

    # Processes that do something

    async def start(self, server: type[_G], *args: Any, name: str | None = None, link: bool = False, **kwargs: Any) -> _G:
        """Starts a `GenServer`; see its `start`."""
        kwargs.setdefault("threads", self._threads)
        return await server.start(self, *args, name=name, link=link, **kwargs)

    @overload
    def task(
        self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, parent: Process | None = None, label: str | None = None
    ) -> Task[T]: ...
    @overload
    def task(self, function: Callable[..., T], *args: Any, parent: Process | None = None, label: str | None = None) -> Task[T]: ...
    def task(self, function: Callable[..., Any], *args: Any, parent: Process | None = None, label: str | None = None) -> Task[Any]:
        """Runs a function in a process of its own, linked with this one or with `parent`. Await what it gives for the result.

        The function gets its process, and then `args`.
        """
        return Task(parent or self, function, args, label)

    def stream(self, to: Address, body: Any = None, *, timeout: float = TIMEOUT, ct: str | None = None) -> Stream:
        """A call whose answer comes in parts. Each starts the deadline anew."""
        return Stream(self, to, body, timeout, ct)

    @overload
    def serve(self, module: str, /) -> Callable[[_F], _F]: ...
    @overload
    def serve(self, module: str, target: Target, /) -> Awaitable[Module]: ...
    def serve(self, module: str, target: Target = ABSENT, /) -> Any:
        """Serves functions under a module's name, to all nodes.

        As a decorator of a class (made without arguments), or of one function after the other, before or after connecting; or awaited with
        a class, an object, a function or a mapping. Names that begin with `_` are left out. Plain functions run on the event loop:
        let those that take long be coroutines.
        """
        if target is not ABSENT:
            return self._served(module, target).open()

        def decorate(decorated: _F) -> _F:
            served = self._served(module, decorated)
            if self._started:
                self._in_background(served.open())
            return decorated

        return decorate

    def _served(self, name: str, target: Target) -> Module:
        module = self._modules.get(name)
        if module is None:
            module = self._modules[name] = Module(self, name, self._threads)
        module.functions.update(functions_of(target))
        return module

    async def unserve(self, module: str) -> None:
        """Serves a module no more."""
        served = self._modules.get(module)
        if served is not None:
            await served.close()

    def subscribe(
        self,
        topic: str,
        *,
        group: str | None = None,
        metadata: Any = None,
        sync: bool = False,
        on_gap: Callback | None = None,
    ) -> Subscription:
        """What is published to a topic or a pattern (`shop.*`, `shop.>`): `async with` it and iterate, or await it first.

        With a `group` each message goes to one of its members in the mesh. With `sync` it is open once every connected node knows of it.
        """
        return Subscription(self, topic, group, metadata, sync, on_gap)

    def watch_presence(self, topic: str) -> PresenceWatch:
        """Who comes and goes under a topic."""
        return PresenceWatch(self, topic)

    def watch_group(self, group: str | None = None, *, prefix: str | None = None) -> GroupWatch:
        """Who joins and leaves a group, or every group whose name begins with `prefix`."""
        return GroupWatch(self, {"group": group} if group is not None else {"prefix": prefix or ""})

    def watch_nodes(self, node_type: str = "all") -> NodeWatch:
        """Nodes that come and go: `all`, `visible` or `hidden` ones."""
        return NodeWatch(self, node_type)

    # What the session says

    def _in_background(self, work: Awaitable[Any]) -> None:
        future = asyncio.ensure_future(work)
        self._background.add(future)
        future.add_done_callback(self._background_done)

    def _background_done(self, future: asyncio.Future[Any]) -> None:
        self._background.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.error("pillion: what was done in the background failed", exc_info=error)

    def _call_back(self, name: str, *args: Any) -> bool:
        callback = self._callbacks[name]
        if callback is None:
            return False
        self._calls_back(name, callback, *args)
        return True

    def _calls_back(self, name: str, callback: Callback, *args: Any) -> None:
        try:
            result = callback(*args)
        except Exception:
            log.exception("the callback on_%s failed", name)
        else:
            if inspect.isawaitable(result):
                self._in_background(result)

    def _failed(self, op: str, to: str | None, code: str, count: int, message: str | None) -> None:
        if not self._call_back("failed", op, to, code, count):
            log.warning("%s%s failed %d time(s): %s", op, f" to {to}" if to else "", count, message or code)

    def _report(self, report: Report) -> None:
        if not self._call_back("report", report) and not report.is_clean:
            log.warning("the connection to the node was lost, and something with it: %s", report)

    def _on_draining_event(self) -> None:
        if self._leaving is not None and not self._leaving.done():
            return
        if not self._call_back("draining"):
            log.info("the node is about to leave: finishing")
            self._leaving = asyncio.get_running_loop().create_task(draining.leave(self), name="pillion: leaving")

    def _on_left(self) -> None:
        self._is_drained = True
        if self._drained_event is not None:
            self._drained_event.set()
        self._call_back("drained")

    def _on_restarted(self, before: str, quiet: bool) -> None:
        """Another session has begun: everything of the old one is over."""
        for module in self._modules.values():
            module.cancel_all()
        processes = list(self._session.processes.values())
        own: dict[str, Process] = {process.pid: process for process in processes}
        own[before] = self
        self._relinks = [(process, other) for process in (self, *processes) for other in process._begin_again(own, quiet)]

    async def _declare(self) -> None:
        """Declares everything to a node that knows nothing of it."""
        session = self._session
        processes = list(session.processes.values())
        spawned = [self._spawn_again(process) for process in processes]
        await self._answers([(process._spawn or {}, answer, process) for process, answer in zip(processes, spawned)])
        everybody = [self, *(process for process in processes if process.exit_reason is None)]
        wanted = [(process, header) for process in everybody for header in process._declared.values()]
        wanted.sort(key=lambda each: _STAGES[each[1]["op"]])
        posted: list[tuple[Header, asyncio.Future[Answer], Process | None]] = []
        for process, other in self._relinks:
            if process.exit_reason is None and other.exit_reason is None:
                header = process._acting({"op": "link", "to": other.pid})
                posted.append((header, session.post(header, b""), None))
                process._links.add(other.pid)
        self._relinks = []
        posted += [(header, session.post(process._acting(header), b""), None) for process, header in wanted]
        await self._answers(posted)

    def _spawn_again(self, process: Process) -> asyncio.Future[Answer]:
        session = self._session

        def on_ok(header: Mapping[str, Any]) -> None:
            session.processes.pop(process.pid, None)
            process.pid = process._field = str(header["pid"])
            process._heads.clear()
            session.processes[process.pid] = process

        return session.post(process._spawn or {"op": "spawn"}, b"", on_ok=on_ok)

    async def _answers(self, posted: list[tuple[Header, asyncio.Future[Answer], Process | None]]) -> None:
        results = await asyncio.gather(*(answer for _, answer, _ in posted), return_exceptions=True)
        for (header, _, process), result in zip(posted, results):
            if isinstance(result, PillionError) and not isinstance(result, Lost):
                what = header.get("name") or header.get("module") or header.get("topic") or header.get("group") or header.get("to")
                self._failed(header["op"], what, result.code, 1, result.message)
                if process is not None:
                    process._ended(result.code)

    def _on_connected(self) -> None:
        """There is a node again."""
        self._is_drained = False
        if self._drained_event is not None:
            self._drained_event.clear()
        for server in list(self._servers):
            self._in_background(server._begin_anew())
        if self._session.draining:
            self._on_draining_event()


def connect(
    socket: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    grace: float = 0.0,
    timeout: float = 10.0,
    on_draining: Callback | None = None,
    on_drained: Callback | None = None,
    on_failed: Callback | None = None,
    on_report: Callback | None = None,
    on_disconnected: Callback | None = None,
) -> Client:
    """A client of the node at `socket`, else at `PILLION_SOCKET`, else of the only node of this user: `async with connect() as app`.

    `name` is shown to people. While nobody listens it tries again for `timeout` seconds, then it raises `Unreachable`. After that it
    connects again whenever the connection breaks. With `grace` seconds, up to an hour, the node keeps the session for so long: then it is
    taken up where the connection alone broke, and others hear of an app that was killed only when they are over.

    Callbacks may be plain or coroutines. `on_draining()`: the node is about to leave, and the app decides (`drain` finishes); without it
    the client finishes by itself. `on_drained()`: it has finished. `on_failed(op, to, code, count)`: what nobody waits for failed.
    `on_disconnected(reason)`: the connection broke, and the client tries to reach the node again. `on_report(report)`: it has, and this is
    what was lost.
    """
    return Client(
        socket,
        name=name,
        grace=grace,
        connect_timeout=timeout,
        on_draining=on_draining,
        on_drained=on_drained,
        on_failed=on_failed,
        on_report=on_report,
        on_disconnected=on_disconnected,
    )
