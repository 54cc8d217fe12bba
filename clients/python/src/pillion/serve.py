"""Functions for others: a module is a name and what can be called by it, in a process of its own."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Union

from .errors import PillionError
from .events import Event, Rpc
from .process import Process
from .threads import contained

if TYPE_CHECKING:
    from .client import Client

log = logging.getLogger("pillion")

Target = Union[type, Mapping[str, Callable[..., Any]], Callable[..., Any], object]


def functions_of(target: Target) -> dict[str, Callable[..., Any]]:
    """What can be called: of a mapping what it has, of a function itself, of an object (or a class, made without arguments) its methods.

    Names that begin with `_` are nobody's business.
    """
    if isinstance(target, Mapping):
        return {str(name): function for name, function in target.items()}
    if inspect.isclass(target):
        target = target()
    elif inspect.isroutine(target) or isinstance(target, functools.partial):
        return {getattr(target, "__name__", "call"): target}
    names = (name for name in dir(target) if not name.startswith("_"))
    found = {name: getattr(target, name) for name in names}
    return {name: value for name, value in found.items() if callable(value)}


class Module:
    """A module that is served. Calls run side by side; a coroutine is cancelled when nobody waits for it any more."""

    def __init__(self, client: Client, name: str, threads: bool) -> None:
        self._client = client
        self.name = name
        self._threads = threads
        self.functions: dict[str, Callable[..., Any]] = {}
        self.process: Process | None = None
        self._running: dict[int, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Module {self.name}: {', '.join(sorted(self.functions))}>"

    async def open(self) -> Module:
        """Says to the node what is served, as it is now."""
        async with self._opening:
            if self.process is None:
                process = await self._client.spawn(label=f"serve {self.name}"[:200])
                process._on_end = self._on_end
                process._on_cancelled = self.cancel
                # Nothing comes before `serve` is carried out.
                process.mailbox.sink(self._on_event)
                self.process = process
            header = {"op": "serve", "module": self.name, "functions": sorted(self.functions)}
            await self.process._declare_now(("serve", self.name), header)
        return self

    async def close(self) -> None:
        """Serves it no more. Calls that are under way end as `Exited` for those who wait."""
        self._client._modules.pop(self.name, None)
        if self.process is not None:
            await self.process.exit()

    def _on_end(self, reason: str) -> None:
        for task in list(self._running.values()):
            task.cancel()
        if self._client._modules.get(self.name) is self and reason not in ("normal", "shutdown"):
            log.warning("the process that serves %s has ended: %s", self.name, reason)
            self._client._modules.pop(self.name, None)

    def _on_event(self, event: Event) -> None:
        process = event.process
        if not isinstance(event, Rpc):
            if event.counted:
                process.mailbox.consumed()
            return
        function = self.functions.get(event.function)
        if function is None:
            there = ", ".join(sorted(self.functions))
            self._start(event, event._fail(f"{self.name} has no function {event.function}; there are {there}", error_class="undef"))
            return
        args = event.body if isinstance(event.body, list) else [event.body]
        try:
            if self._threads and not inspect.iscoroutinefunction(function):
                result: Any = asyncio.get_running_loop().run_in_executor(None, contained, function, *args)
            else:
                result = function(*args)
            if not inspect.isawaitable(result) and event._reply_now(result):
                process.mailbox.consumed()
                if process.mailbox.untold and not self._running:
                    process.mailbox.tell()
                return
        except Exception as error:
            log.warning("%s.%s failed", self.name, event.function, exc_info=error)
            self._start(event, event._fail(error))
            return
        self._start(event, self._answer(event, result))

    def _start(self, event: Rpc, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._finish(event, work), name=f"pillion: {self.name}.{event.function}")
        key = event.ref if event.ref is not None else -id(task)
        self._running[key] = task
        task.add_done_callback(lambda _: self._ended(key, task, event))

    def _ended(self, key: int, task: asyncio.Task[None], event: Rpc) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        mailbox = event.process.mailbox
        mailbox.consumed()
        if not self._running:
            mailbox.tell()

    async def _finish(self, event: Rpc, work: Any) -> None:
        try:
            await work
        except PillionError as error:
            log.debug("%s.%s could not be answered: %s", self.name, event.function, error)

    async def _answer(self, event: Rpc, result: Any) -> None:
        try:
            value = await result if inspect.isawaitable(result) else result
            await event._reply(value)
        except PillionError as error:
            if event.is_cancelled:
                raise
            await event._fail(error)
        except Exception as error:
            log.warning("%s.%s failed", self.name, event.function, exc_info=error)
            await event._fail(error)

    def cancel(self, ref: int) -> None:
        """Nobody waits for this answer any more."""
        task = self._running.get(ref)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> None:
        """Nobody waits for any of them: the session that they came by is over."""
        for task in list(self._running.values()):
            task.cancel()

    @property
    def is_idle(self) -> bool:
        return not self._running
