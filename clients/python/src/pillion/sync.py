"""The same for programs without an event loop.

    from pillion import sync

    with sync.connect() as app:
        app.send("stock", ["status", app.pid])
        print(app.receive(timeout=5))

The client runs on a loop in a thread of its own; every method waits for its result, and may be called from any thread. What takes part in
calls of others (`GenServer` callbacks, served functions, tasks) runs in threads too, so it may wait. Interrupted (Ctrl-C), a wait is given
up as if it had been cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, cast, overload

from . import client as _client
from . import events as _events
from . import process as _process
from . import program as _program
from . import queries as _queries
from . import stream as _stream
from . import task as _task
from . import topics as _topics
from .acting import TIMEOUT, Address
from .errors import Closed
from .events import Event, Gap, GroupChange, Message, NodeDown, NodeUp, PresenceChange, Present
from .gen_server import GenServer
from .forking import FORKED
from .mailbox import WINDOW, Match
from .threads import contained

P = ParamSpec("P")
T = TypeVar("T")
_E = TypeVar("_E", bound=Event)
_G = TypeVar("_G", bound=GenServer)
_W = TypeVar("_W", bound="Watch[Any]")
_F = TypeVar("_F", bound=Callable[..., Any])


_END_SECONDS = 1.0


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # As many functions at a time as are given: each may wait for another one.
        self.loop.set_default_executor(ThreadPoolExecutor(WINDOW, thread_name_prefix="pillion"))
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._ended = False
        self.thread = threading.Thread(target=self._run, name="pillion", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            with self._lock:
                self._ended = True
            # Nothing is begun any more. Who still waits hears so.
            self.loop.run_until_complete(asyncio.sleep(0))
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=_END_SECONDS))
            self.loop.close()

    @property
    def is_over(self) -> bool:
        """Whether nothing can be asked for any more: it was closed, or this is a child of the process that it works for."""
        return self._ended or os.getpid() != self._pid

    def wait(self, work: Coroutine[Any, Any, T], undo: Callable[[T], object] | None = None) -> T:
        """The result of `work`. When the wait is interrupted, `undo` gets what had come already, on the loop."""
        if threading.current_thread() is self.thread:
            work.close()
            raise RuntimeError("a method of pillion.sync was called on its own event loop, which would wait for itself")
        if os.getpid() != self._pid:
            work.close()
            raise Closed(FORKED)
        came: list[T] = []

        async def kept() -> T:
            result = await work
            came.append(result)
            return result

        def give_back() -> None:
            if came and undo is not None:
                undo(came.pop())

        with self._lock:
            if self._ended:
                work.close()
                raise Closed("the client is closed")
            future = asyncio.run_coroutine_threadsafe(work if undo is None else kept(), self.loop)
        try:
            return future.result()
        except CancelledError:
            if self._ended:
                raise Closed("the client was closed meanwhile", maybe_applied=True) from None
            raise
        except BaseException:
            future.cancel()
            if undo is not None:
                with self._lock:
                    if not self._ended:
                        self.loop.call_soon_threadsafe(give_back)
            raise

    def stop(self) -> None:
        if os.getpid() != self._pid:
            return
        with self._lock:
            if not self._ended:
                self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self.thread:
            self.thread.join()


class _Waits(Generic[P, T]):
    """A method that waits for a coroutine of what it stands for."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, owner: Any, _: type | None = None) -> Callable[P, T]:
        if owner is None:
            return self  # type: ignore[return-value]

        def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
            return cast(T, owner._loop.wait(self._method(owner._it, *args, **kwargs)))

        return waiting


class Call(_events.Call):
    """A call, answered by methods that wait."""

    __slots__ = ()

    def reply(self, body: Any = None, *, ct: str | None = None, more: bool = False) -> None:  # type: ignore[override]
        """Answers; with `more` it is a part of the answer, and others follow."""
        _loop_of(self.process).wait(self._reply(body, ct, more))

    def fail(self, error: BaseException | str, *, error_class: str | None = None, stack: str | None = None) -> None:  # type: ignore[override]
        """Ends the call with an error."""
        _loop_of(self.process).wait(self._fail(error, error_class, stack))


def _loop_of(process: _process.Process) -> _Loop:
    return cast(_Loop, process.client._sync)


def _shown(event: Event) -> Event:
    if type(event) is _events.Call:
        event.__class__ = Call  # The same object with the other methods.
    return event


class _Waiter:
    """What the loop has, seen from other threads."""

    def __init__(self, it: Any, loop: _Loop) -> None:
        self._it = it
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._it)


class Monitor(_Waiter):
    """Watches a process: exactly one `Down` with this `ref` will be in the mailbox of whoever watches."""

    @property
    def ref(self) -> int:
        return int(self._it.ref)

    demonitor = _Waits(_process.Monitor.demonitor)


class Timer(_Waiter):
    """A message that is sent later."""

    cancel = _Waits(_process.Timer.cancel)
    left = _Waits(_process.Timer.left)


class Process(_Waiter):
    """A process: a mailbox with a pid, and what it does with other processes."""

    @property
    def pid(self) -> str:
        """As it is now: it is another one after the node was restarted."""
        return str(self._it.pid)

    @property
    def exit_reason(self) -> str | None:
        """Why it has ended; None while it lives."""
        return cast("str | None", self._it.exit_reason)

    def __enter__(self: _S) -> _S:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self._loop.is_over:
            with contextlib.suppress(Closed):
                self.exit("normal" if error is None else _events.reason_of(error))

    send = _Waits(_process.Process.send)
    cast = _Waits(_process.Process.cast)
    call = _Waits(_process.Process.call)
    link = _Waits(_process.Process.link)
    unlink = _Waits(_process.Process.unlink)
    kill = _Waits(_process.Process.kill)
    exit = _Waits(_process.Process.exit)
    flag = _Waits(_process.Process.flag)
    register = _Waits(_process.Process.register)
    unregister = _Waits(_process.Process.unregister)
    join = _Waits(_process.Process.join)
    leave = _Waits(_process.Process.leave)
    track = _Waits(_process.Process.track)
    update_presence = _Waits(_process.Process.update_presence)
    untrack = _Waits(_process.Process.untrack)
    publish = _Waits(_process.Process.publish)
    rpc = _Waits(_process.Process.rpc)
    rpc_cast = _Waits(_process.Process.rpc_cast)

    def monitor(self, to: Address) -> Monitor:
        """Watches a process; its `Down` comes even when it is not there."""
        return Monitor(self._loop.wait(self._it.monitor(to)), self._loop)

    def send_after(self, seconds: float, to: Address, body: Any = None, *, ct: str | None = None) -> Timer:
        """Sends a message later, to whomever the address means then."""
        return Timer(self._loop.wait(self._it.send_after(seconds, to, body, ct=ct)), self._loop)

    def spawn(
        self,
        *,
        name: str | None = None,
        label: str | None = None,
        link: bool = False,
        monitor: bool = False,
        trap_exit: bool = False,
        mailbox: Mapping[str, Any] | None = None,
    ) -> Process:
        """A new process of this app. Leaving its `with` ends it."""
        work = self._it.spawn(name=name, label=label, link=link, monitor=monitor, trap_exit=trap_exit, mailbox=mailbox)
        return Process(self._loop.wait(work), self._loop)

    @overload
    def receive(self, match: Match | None = None) -> Event: ...
    @overload
    def receive(self, match: Match | None = None, *, timeout: float) -> Event | None: ...
    def receive(self, match: Match | None = None, *, timeout: float | None = None) -> Event | None:
        """Takes the first event out of the mailbox for which `match` is true; None when `timeout` seconds are over.

        `match` runs on the client's loop: it looks at the event, and does not wait.
        """
        event = self._loop.wait(self._it.mailbox.receive(match, timeout), self._it.mailbox.give_back)
        return None if event is None else _shown(event)

    def flush(self) -> list[Event]:
        """Takes out everything that has arrived."""
        return [_shown(event) for event in self._loop.wait(self._it.flush())]

    def __iter__(self) -> Iterator[Event]:
        """The events of the mailbox, one by one, until the process ends or the node has been left."""
        return map(_shown, _iterated(self._loop, self._it.__aiter__(), self._it))


_S = TypeVar("_S", bound=Process)


def _iterated(loop: _Loop, events: AsyncIterator[T], process: _process.Process | None = None) -> Generator[T, None, None]:
    async def following() -> tuple[bool, Any]:
        try:
            return True, await events.__anext__()
        except StopAsyncIteration:
            return False, None

    def give_back(came: tuple[bool, Any]) -> None:
        if process is not None and came[0]:
            process.mailbox.give_back(came[1])

    while True:
        there, event = loop.wait(following(), give_back)
        if not there:
            return
        yield event


class Watch(Generic[_E]):
    """An iterator over events. `with` opens it and ends it."""

    def __init__(self, it: _topics.Watch[_E], loop: _Loop) -> None:
        self._it = it
        self._loop = loop

    @property
    def process(self) -> Process:
        """The process whose mailbox it is: its `receive` has a `timeout`."""
        return Process(self._it.process, self._loop)

    def __enter__(self: _W) -> _W:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self: _W) -> _W:
        self._loop.wait(self._it._open())
        return self

    def close(self) -> None:
        """Ends it. Once the client is closed it has ended."""
        if not self._loop.is_over:
            with contextlib.suppress(Closed):
                self._loop.wait(self._it.close())

    def __iter__(self) -> Iterator[_E]:
        return _iterated(self._loop, self._it.__aiter__(), self._it.process)

    def events(self) -> Iterator[_E | Gap]:
        """All events, each `Gap` among them where the messages would have been."""
        return _iterated(self._loop, self._it.events(), self._it.process)


class PresenceWatch(Watch[PresenceChange]):
    """Who is present under a topic."""

    @property
    def present(self) -> dict[tuple[str, str], Present]:
        """Who is there, by key and pid, after the changes that were taken."""
        return dict(cast(_topics.PresenceWatch, self._it).present)


class Task(Generic[T]):
    """What `task` gives. The function runs in a thread; cancelled, its process has ended, which it notices when it uses it."""

    def __init__(self, it: _task.Task[T], loop: _Loop) -> None:
        self._it = it
        self._loop = loop

    @property
    def process(self) -> Process:
        """The process in which it runs."""
        return Process(self._loop.wait(self._it.started()), self._loop)

    def result(self, timeout: float | None = None) -> T:
        """The result; an error of the function is raised. After `timeout` seconds `Timeout`, and it runs on."""
        return self._loop.wait(self._it.wait(timeout))

    def cancel(self) -> None:
        """Ends its process."""
        if not self._loop.is_over:
            self._loop.loop.call_soon_threadsafe(self._it.cancel)


class Stream:
    """An answer in parts: iterate over them; `value` is the last, once they have ended."""

    def __init__(self, it: _stream.Stream, loop: _Loop) -> None:
        self._it = it
        self._loop = loop

    def __iter__(self) -> Iterator[Any]:
        return _iterated(self._loop, self._it)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes no more: parts are dropped."""
        if not self._loop.is_over:
            with contextlib.suppress(Closed):
                self._loop.wait(self._it.close())

    @property
    def value(self) -> Any:
        return self._it.value


class Client(Process):
    """Made by `connect`. Use it with `with`, or `close` it."""

    _it: _client.Client

    def __init__(self, it: _client.Client, loop: _Loop) -> None:
        super().__init__(it, loop)
        self._closing = threading.Lock()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def node(self) -> str:
        """The name of the node."""
        return self._it.node

    def close(self) -> None:
        """Ends the app's session, and the thread. Closed already, or being closed, or in a child of the process, it does nothing."""
        if self._loop.is_over or not self._closing.acquire(blocking=False):
            return
        try:
            with contextlib.suppress(Closed):
                self._loop.wait(self._it.close())
        finally:
            self._loop.stop()

    request = _Waits(_queries.Queries.request)
    nodes = _Waits(_queries.Queries.nodes)
    ping = _Waits(_queries.Queries.ping)
    wait_for = _Waits(_queries.Queries.wait_for)
    whereis = _Waits(_queries.Queries.whereis)
    registered = _Waits(_queries.Queries.registered)
    info = _Waits(_queries.Queries.info)
    alive = _Waits(_queries.Queries.alive)
    list_processes = _Waits(_queries.Queries.list_processes)
    members = _Waits(_queries.Queries.members)
    groups = _Waits(_queries.Queries.groups)
    modules = _Waits(_queries.Queries.modules)
    topics = _Waits(_queries.Queries.topics)
    subscribers = _Waits(_queries.Queries.subscribers)
    presence = _Waits(_queries.Queries.presence)
    multi_call = _Waits(_queries.Queries.multi_call)
    abcast = _Waits(_queries.Queries.abcast)
    sbcast = _Waits(_queries.Queries.sbcast)
    rpc_all = _Waits(_queries.Queries.rpc_all)
    unserve = _Waits(_client.Client.unserve)
    drain = _Waits(_client.Client.drain)
    drained = _Waits(_client.Client.drained)

    def start(self, server: type[_G], *args: Any, name: str | None = None, link: bool = False, **kwargs: Any) -> _G:
        """Starts a `GenServer`; its plain callbacks run in a thread of their own."""
        return self._loop.wait(self._it.start(server, *args, name=name, link=link, **kwargs))

    def task(self, function: Callable[..., T], *args: Any, label: str | None = None) -> Task[T]:
        """Runs a function in a thread and a process of its own, linked with this one. It gets its process, and then `args`."""
        loop = self._loop

        async def run(process: _process.Process) -> T:
            return await _in_thread(functools.partial(function, Process(process, loop), *args))

        async def begin() -> _task.Task[T]:
            return self._it.task(run, label=label or getattr(function, "__name__", None))

        return Task(loop.wait(begin()), loop)

    def stream(self, to: Address, body: Any = None, *, timeout: float = TIMEOUT, ct: str | None = None) -> Stream:
        """A call whose answer comes in parts."""

        async def begin() -> _stream.Stream:
            return self._it.stream(to, body, timeout=timeout, ct=ct)

        return Stream(self._loop.wait(begin()), self._loop)

    @overload
    def serve(self, module: str, /) -> Callable[[_F], _F]: ...
    @overload
    def serve(self, module: str, target: object, /) -> None: ...
    def serve(self, module: str, target: Any = None, /) -> Any:
        """Serves functions under a module's name: as a decorator of a class or of functions, or with a class, an object or a mapping.

        It is served when this returns. Functions run in threads, several at a time.
        """
        if target is not None:
            self._serve(module, target)
            return None

        def decorate(decorated: _F) -> _F:
            self._serve(module, decorated)
            return decorated

        return decorate

    def _serve(self, module: str, target: Any) -> None:
        async def serve() -> None:
            await self._it.serve(module, target)

        self._loop.wait(serve())

    def subscribe(
        self,
        topic: str,
        *,
        group: str | None = None,
        metadata: Any = None,
        sync: bool = False,
        on_gap: Callable[[Gap], object] | None = None,
    ) -> Watch[Message]:
        """What is published to a topic or a pattern: `with` it and iterate."""
        return Watch(self._it.subscribe(topic, group=group, metadata=metadata, sync=sync, on_gap=_threaded(on_gap)), self._loop)

    def watch_presence(self, topic: str) -> PresenceWatch:
        """Who comes and goes under a topic."""
        return PresenceWatch(self._it.watch_presence(topic), self._loop)

    def watch_group(self, group: str | None = None, *, prefix: str | None = None) -> Watch[GroupChange]:
        """Who joins and leaves a group, or every group whose name begins with `prefix`."""
        return Watch(self._it.watch_group(group, prefix=prefix), self._loop)

    def watch_nodes(self, node_type: str = "all") -> Watch[NodeUp | NodeDown]:
        """Nodes that come and go."""
        return Watch(self._it.watch_nodes(node_type), self._loop)


async def _in_thread(function: Callable[[], T]) -> T:
    """Runs a function in a thread of its own, however long."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            result = contained(function)
        except Exception as error:
            with contextlib.suppress(Exception):
                done.set_exception(error)
        else:
            with contextlib.suppress(Exception):
                done.set_result(result)

    threading.Thread(target=run, name="pillion task", daemon=True).start()
    return await asyncio.wrap_future(done)


def _threaded(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    if callback is None:
        return None
    return lambda *args: _in_thread(functools.partial(callback, *args))


def connect(
    socket: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    grace: float = 0.0,
    timeout: float = 10.0,
    on_draining: Callable[..., Any] | None = None,
    on_drained: Callable[..., Any] | None = None,
    on_failed: Callable[..., Any] | None = None,
    on_report: Callable[..., Any] | None = None,
    on_disconnected: Callable[..., Any] | None = None,
) -> Client:
    """As `pillion.connect`, and connected when it returns. Callbacks run in threads."""
    loop = _Loop()
    it = _client.Client(
        socket,
        name=name,
        grace=grace,
        connect_timeout=timeout,
        threads=True,
        on_draining=_threaded(on_draining),
        on_drained=_threaded(on_drained),
        on_failed=_threaded(on_failed),
        on_report=_threaded(on_report),
        on_disconnected=_threaded(on_disconnected),
    )
    it._sync = loop
    try:
        loop.wait(it._start())
    except BaseException:
        loop.stop()
        raise
    return Client(it, loop)


def run(
    server: type[GenServer],
    /,
    *args: Any,
    name: str | None = None,
    socket: str | os.PathLike[str] | None = None,
    grace: float = 0.0,
    timeout: float = 10.0,
    trap_exit: bool = False,
    **kwargs: Any,
) -> NoReturn:
    """As `pillion.run`; plain callbacks run in a thread of the server's own, so they may wait."""
    with _program._Signals() as signals:
        program = _program.Program(server, args, kwargs, name, trap_exit, signals)
        loop = _Loop()

        def connecting() -> _client.Client:
            it = _client.Client(socket, name=name, grace=grace, connect_timeout=timeout, threads=True)
            it._sync = loop
            return it

        try:
            status = loop.wait(program.main(connecting))
        finally:
            loop.stop()
    sys.exit(status)


__all__ = ["Call", "Client", "Monitor", "PresenceWatch", "Process", "Stream", "Task", "Timer", "Watch", "connect", "run"]
