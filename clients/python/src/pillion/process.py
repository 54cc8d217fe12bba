"""A process: a mailbox with a pid, and what it does with other processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from cbor2 import dumps

from .acting import _HEADS_MAX, TIMEOUT, Acting, Address, Mode, address, milliseconds
from .errors import Closed, Denied, Lost, NoProc
from .events import Call, Down, Event, Exit, reason_of
from .frames import ABSENT, body_bytes, body_value, header_bytes, raw_frame
from .mailbox import Mailbox, Match
from .pending import Answer, Header

if TYPE_CHECKING:
    from .client import Client

log = logging.getLogger("pillion")
_Self = TypeVar("_Self", bound="Process")


class Monitor:
    """Watches a process: exactly one `Down` with this `ref` will be in the mailbox of whoever watches."""

    __slots__ = ("process", "address", "ref", "epoch")

    def __init__(self, process: Process, address: str, ref: int, epoch: int) -> None:
        self.process = process
        self.address = address
        self.ref = ref
        self.epoch = epoch

    async def demonitor(self) -> None:
        """No `Down` any more, not even one that waits in the mailbox."""
        self.process._monitors.pop(self.ref, None)
        session = self.process.client._session
        if self.epoch == session.epoch:
            await session.request({"op": "demonitor", "ref": self.ref, "flush": True})
        self.process.mailbox.take(lambda event: isinstance(event, Down) and event.ref == self.ref)


class Timer:
    """A message that is sent later."""

    __slots__ = ("_process", "_timer", "_epoch")

    def __init__(self, process: Process, timer: int, epoch: int) -> None:
        self._process = process
        self._timer = timer
        self._epoch = epoch

    async def cancel(self) -> float | None:
        """Takes it back. Gives the seconds that were left; None when it has fired, or its session is over."""
        return await self._ask("cancel_timer")

    async def left(self) -> float | None:
        """The seconds that are left; None when it has fired, or its session is over."""
        return await self._ask("read_timer")

    async def _ask(self, op: str) -> float | None:
        session = self._process.client._session
        if self._epoch != session.epoch:
            return None
        header, _ = await session.request({"op": op, "timer": self._timer})
        left = header.get("left_ms")
        return None if left is None else left / 1000


class Process(Acting):
    """A process of this app. Made by `spawn`; the client is one itself.

    After a restart of the node it is spawned again by itself, with another pid and with its names, groups and presences; its mailbox
    says so by a `Gap` with the reason `restarted`.
    """

    def __init__(self, client: Client | None, pid: str, spawn: Header | None = None) -> None:
        super().__init__()
        if client is not None:
            self.client = client
        self.pid = pid
        """As it is now: it is another one after the node was restarted."""
        self._field: str | None = pid or None
        self._spawn = spawn
        self.mailbox = Mailbox(self)
        self._links: set[str] = set()
        self._monitors: dict[int, Monitor] = {}
        self._traps_exits = bool(spawn and spawn.get("trap_exit"))
        self._on_end: Callable[[str], None] | None = None
        self._on_cancelled: Callable[[int], None] | None = None
        self.monitor_ref: int | None = None
        """The `ref` of the monitor that `spawn` set, if it did."""
        self._exiting = False
        self.exit_reason: str | None = None
        """Why it has ended; None while it lives."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid}>"

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        await self.exit("normal" if error is None else reason_of(error))

    async def spawn(
        self,
        *,
        name: str | None = None,
        label: str | None = None,
        link: bool = False,
        monitor: bool = False,
        trap_exit: bool = False,
        mailbox: Mapping[str, Any] | None = None,
    ) -> Process:
        """A new process of this app: a mailbox with a pid, and a name of this node if it is given one (`Taken`: there is no process).

        It may be linked to this one and watched by it at once: its `Down` has the process's `monitor_ref`. `mailbox` may have `entries`,
        `bytes` and `policy`. Leaving its `async with` ends it.
        """
        fields = {"name": name, "label": label, "trap_exit": trap_exit or None, "mailbox": mailbox and dict(mailbox)}
        spawn: Header = {"op": "spawn"}
        spawn.update((field, value) for field, value in fields.items() if value is not None)
        ties: Header = {}
        if link:
            ties["link"] = True
        if monitor:
            ties["monitor"] = True
        made: list[Process] = []

        def on_ok(header: Header) -> None:
            if abandoned:
                self.client._session.post({"op": "exit", "pid": header["pid"]}, b"").add_done_callback(lambda done: done.exception())
                return
            process = Process(self.client, str(header["pid"]), spawn)
            self.client._session.processes[process.pid] = process
            if link:
                self._links.add(process.pid)
            if monitor:
                process.monitor_ref = header["ref"]
                self._monitors_now(process.pid, header["ref"])
            made.append(process)

        abandoned = False
        try:
            await self._request({**spawn, **ties}, on_ok=on_ok)
        except asyncio.CancelledError:
            abandoned = True
            if made:
                await made[0].exit()
            raise
        return made[0]

    # Messages

    async def send(
        self,
        to: Address,
        body: Any = None,
        *,
        ct: str | None = None,
        mode: Mode | None = None,
        checked: bool = False,
        confirm: bool = False,
    ) -> None:
        """Sends a message. It is taken when this returns, not delivered; what fails then is heard by `on_failed`.

        Waits while 1 MiB is unwritten. With `confirm` it waits until the node says that it took it, and raises what went wrong. With
        `checked` what the node knows is an error: `NoProc`, `NoConnection`. With a content type `ct` the body is bytes. `mode` says what
        happens where it is full: `wait` (default), `try` (`Overloaded`), `lossy` (it is lost). Cancelled, it may have been sent.
        """
        if ct is not None or mode is not None or checked or confirm:
            await self._send_with("send", to, body, ct, mode, checked, confirm)
            return
        raw = body_bytes(body, None)
        session = self.client._session
        conn = session.conn
        if conn is None or conn.is_full or conn.is_long or session.queue:
            conn = await session.ready()
        to = to if isinstance(to, str) else to.pid
        head = self._heads.get(to) or self._head(to, to, {"op": "send", "to": to})
        session.pending.written += 1
        conn.write(raw_frame(head, raw))

    async def cast(
        self,
        to: Address,
        body: Any = None,
        *,
        ct: str | None = None,
        mode: Mode | None = None,
        checked: bool = False,
        confirm: bool = False,
    ) -> None:
        """A request that wants no answer: as `send`, and the receiver hears a `Cast`."""
        if ct is not None or mode is not None or checked or confirm:
            await self._send_with("cast", to, body, ct, mode, checked, confirm)
            return
        raw = body_bytes(body, None)
        session = self.client._session
        conn = session.conn
        if conn is None or conn.is_full or conn.is_long or session.queue:
            conn = await session.ready()
        to = address(to)
        key = ("cast", to)
        head = self._heads.get(key) or self._head(key, to, {"op": "cast", "to": to})
        session.pending.written += 1
        conn.write(raw_frame(head, raw))

    async def _send_with(
        self, op: str, to: Address, body: Any, ct: str | None, mode: Mode | None, checked: bool, confirm: bool
    ) -> None:
        header: Header = {"op": op, "to": address(to)}
        if mode is not None:
            header["mode"] = mode
        if checked:
            header["checked"] = True
        if confirm:
            await self._request(header, body, ct)
        else:
            await self._write(header, body, ct)

    async def call(self, to: Address, body: Any = None, *, timeout: float = TIMEOUT, ct: str | None = None) -> Any:
        """Asks a process and gives its reply. Ends exactly once, at the latest after `timeout` seconds (5).

        Raises `Timeout`, `NoProc`, `Exited`, `RemoteError` (the callee failed), `NoConnection`, `Overloaded` and the like;
        `maybe_applied` of the error says whether the callee may have had it. Cancelled, the callee may still answer; nobody hears it.
        """
        answer = await self._call(to, body, timeout, ct)
        return body_value(*answer)[0]

    async def _call(self, to: Address, body: Any, timeout: float, ct: str | None) -> Answer:
        to = address(to)
        session = self.client._session
        if ct is not None:
            header: Header = {"op": "call", "to": to, "ct": ct, "timeout_ms": milliseconds(timeout)}
            return await self._request(header, body, None if body is ABSENT else ct, timeout=timeout)
        raw = body_bytes(body, None)
        conn = session.conn
        if conn is None or conn.is_full or conn.is_long or session.queue:
            return await self._request({"op": "call", "to": to}, body, None, timeout=timeout)
        key = (to, timeout)
        heads = self._heads.get(key) or self._call_heads(key, to, timeout)
        return await session.call_raw(conn, heads[0], heads[1], raw, timeout)

    def _call_heads(self, key: Any, to: str, timeout: float) -> tuple[bytes, bytes]:
        suffix = b"\x62to" + dumps(to)
        members = 3
        if timeout != TIMEOUT:
            suffix += b"\x6atimeout_ms" + dumps(milliseconds(timeout))
            members += 1
        if self._field is not None:
            suffix += b"\x63pid" + dumps(self._field)
            members += 1
        header_bytes({"to": to})
        heads = (bytes((0xA0 + members,)) + b"\x62op\x64call\x62id", suffix)
        if len(self._heads) >= _HEADS_MAX:
            self._heads.clear()
        self._heads[key] = heads
        return heads

    @overload
    async def receive(self, match: Match | None = None) -> Event: ...
    @overload
    async def receive(self, match: Match | None = None, *, timeout: float) -> Event | None: ...
    async def receive(self, match: Match | None = None, *, timeout: float | None = None) -> Event | None:
        """Takes the first event out of the mailbox for which `match` is true; any event without it.

        What it does not want stays, in its order, for the next `receive`. Gives None when `timeout` seconds are over. Raises `NoProc`
        with its `reason` when the process has died, `Closed` when the client was closed. Cancelled, it has taken nothing.
        """
        return await self.mailbox.receive(match, timeout)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events of the mailbox, one by one, until the process ends or the node has been left."""
        mailbox = self.mailbox
        while True:
            event = mailbox.take()
            if event is None:
                try:
                    event = await mailbox.receive(iterating=True)
                except Closed:
                    return
                if event is None:
                    return
            yield event

    async def flush(self) -> list[Event]:
        """Takes out everything that has arrived."""
        events: list[Event] = []
        while True:
            event = self.mailbox.take()
            if event is None:
                self.mailbox.tell()
                return events
            events.append(event)

    async def send_after(self, seconds: float, to: Address, body: Any = None, *, ct: str | None = None) -> Timer:
        """Sends a message later, to whomever the address means then. The end of this process cancels it."""
        session = self.client._session
        header = {"op": "send_after", "to": address(to), "after_ms": milliseconds(seconds)}
        answer, _ = await self._request(header, body, ct)
        return Timer(self, answer["timer"], session.epoch)

    # Ends

    async def link(self, to: Address) -> None:
        """Ties this process to another one: when one ends with a reason that is not `normal`, so does the other.

        A process that traps exits hears an `Exit` instead.
        """
        to = address(to)
        await self._request({"op": "link", "to": to})
        self._links.add(to)

    async def unlink(self, to: Address) -> None:
        """Unties them. After it no exit signal of that link comes."""
        to = address(to)
        self._links.discard(to)
        await self._request({"op": "unlink", "to": to})

    async def monitor(self, to: Address) -> Monitor:
        """Watches a process; its `Down` comes even when it is not there."""
        to = address(to)
        made: list[Monitor] = []

        def on_ok(header: Header) -> None:
            made.append(self._monitors_now(to, header["ref"]))

        await self._request({"op": "monitor", "to": to}, on_ok=on_ok)
        return made[0]

    def _monitors_now(self, to: str, ref: int) -> Monitor:
        monitor = Monitor(self, to, ref, self.client._session.epoch)
        self._monitors[ref] = monitor
        return monitor

    async def kill(self, to: Address, reason: str = "kill") -> None:
        """An exit signal to any process. `kill` cannot be trapped; others see `killed`."""
        await self._request({"op": "kill", "to": address(to), "reason": reason})

    async def exit(self, reason: str = "normal") -> None:
        """Ends this process. Linked ones and watchers hear the reason. Ended already, it does nothing.

        Without a connection it waits for one; where there is none in time it has ended for this app, and is not spawned again.
        """
        if self.exit_reason is not None or self._exiting:
            return
        self._exiting = True
        header: Header = {"op": "exit"}
        if reason != "normal":
            header["reason"] = reason
        try:
            await self._request(header)
        except (Lost, Denied, NoProc) as error:
            log.debug("%r: its end was not told: %s", self, error)
        finally:
            self._ended(reason)

    async def flag(
        self,
        *,
        trap_exit: bool | None = None,
        label: str | None = None,
        sensitive: bool | None = None,
        mailbox: Mapping[str, Any] | None = None,
    ) -> None:
        """Changes the process; what is left out stays. `mailbox` may have `entries`, `bytes` and `policy`."""
        fields = {"trap_exit": trap_exit, "label": label, "sensitive": sensitive, "mailbox": mailbox and dict(mailbox)}
        header = {name: value for name, value in fields.items() if value is not None}
        await self._request({"op": "flag", **header})
        if trap_exit is not None:
            self._traps_exits = trap_exit
        if self._spawn is not None:
            for name in ("trap_exit", "label", "mailbox"):
                if name in header:
                    self._spawn[name] = header.pop(name)
        if header:
            kept = self._declared.get(("flag",), {"op": "flag"})
            self._declared["flag",] = {**kept, **header}

    def _more(self, n: int) -> None:
        self.client._session.write_more(self, n)

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Call):
            if event.ref is not None:
                self.client._session.given[event.ref] = self
        elif isinstance(event, Down):
            self._monitors.pop(event.ref, None)
        elif isinstance(event, Exit):
            self._links.discard(event.sender)
        self.mailbox.put(event)

    def _is_given(self, call: Call, take: bool = False) -> bool:
        session = self.client._session
        if call.epoch != session.epoch or call.ref not in session.given:
            return False
        if take:
            del session.given[call.ref]
        return True

    def _forget(self) -> None:
        """It is not spawned again any more."""
        self._declared.clear()
        self.client._session.processes.pop(self.pid, None)

    def _ended(self, reason: str) -> None:
        """The process is no more."""
        if self.exit_reason is not None:
            return
        self.exit_reason = reason
        self._forget()
        given = self.client._session.given
        for ref in [ref for ref, process in given.items() if process is self]:
            del given[ref]
        if reason in ("normal", "shutdown"):
            self.mailbox.end()
        else:
            self.mailbox.end(NoProc(f"{self.pid} has ended: {reason}", reason=reason))
        if self._on_end is not None:
            self._on_end(reason)

    def _begin_again(self, own: Mapping[str, Process], quiet: bool) -> list[Process]:
        """The session is over. What waited for others hears so; gives those of this client that it was linked with.

        `own` has this client's processes by the pids that they had. Signals are taken before the gap: they came of what was there.
        """
        session = self.client._session
        self._heads.clear()
        self.mailbox.restart()
        monitors, self._monitors = self._monitors, {}
        for ref, monitor in monitors.items():
            header: Header = {"ev": "down", "ref": ref, "reason": "noconnection"}
            header["from" if monitor.address.startswith("<") else "name"] = monitor.address
            self.mailbox.put(session.event(self, header))
        links, self._links = self._links, set()
        ours = [own[to] for to in links if to in own]
        if strangers := [to for to in links if to not in own]:
            if self._traps_exits:
                for to in strangers:
                    self.mailbox.put(session.event(self, {"ev": "exit", "from": to, "reason": "noconnection"}))
            elif self._field is not None:
                self._ended("noconnection")
                return []
        if quiet:
            self.mailbox.reopen()
        else:
            self.mailbox.put(session.event(self, {"ev": "gap", "lost": 0, "reason": "restarted"}))
        return ours
