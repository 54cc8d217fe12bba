"""The session: a connection that is kept up, and what that means for commands and processes."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from cbor2 import loads

from . import errors
from .connection import Connection
from .errors import Closed, Lost, PillionError, Unreachable
from .events import KINDS, Event, Message
from .find import find, is_no_path, named, unfit
from .forking import watch
from .frames import OCTETS, body_value, frame
from .mailbox import WINDOW
from .outgoing import WAIT_SECONDS, Outgoing
from .pending import Header
from .report import Report

if TYPE_CHECKING:
    from .client import Client
    from .process import Process

log = logging.getLogger("pillion")

HELLO_SECONDS = 10.0
GAP_SECONDS = 0.1
"""How long after a resumed `welcome` a `gap` may come."""
DELAY_FIRST = 0.01
DELAY_MAX = 1.0
_FINAL = ("denied", "unsupported", "badarg", "not_found")
"""Codes that another try would get again."""


class Session(Outgoing):
    """Commands out, answers and events in, over one connection after the other."""

    def __init__(self, client: Client, *, socket: str | None, name: str | None, grace: float, connect_timeout: float) -> None:
        super().__init__()
        self._client = client
        self._socket = socket
        self._path: str | None = None
        self._name = name
        self._grace_ms = int(grace * 1000)
        self._connect_timeout = connect_timeout
        self._process_token = os.environ.get("PILLION_PROCESS") or None
        self.processes: dict[str, Process] = {}
        self.given: dict[int, Process] = {}
        """Whom each call was given to that is not answered, by its `ref`."""
        self.epoch = 0
        """Counts the sessions: what belongs to an earlier one means nothing to the node any more."""
        self.node = ""
        self._session: int | None = None
        self._secret = ""
        self._seen_before = 0
        self._seen = 0
        self._hello: int | None = None
        self._resuming = False
        self._welcomed: asyncio.Future[str] | None = None
        self._commands_before = 0
        self._gap_timer: asyncio.TimerHandle | None = None
        self._lost_commands = 0
        self._declared = True
        self._was_open = False
        self._lost = asyncio.Event()
        self._overdue: asyncio.TimerHandle | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self.draining = False
        self._is_over = False
        """The server of `run` has ended with its session: no other one is looked for."""
        watch(self)

    # Connecting

    async def start(self) -> None:
        """Connects for the first time, and keeps the connection up from then on."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._connect_timeout
        delay = DELAY_FIRST
        while True:
            try:
                await self._establish()
                break
            except (OSError, PillionError, TimeoutError, asyncio.TimeoutError) as error:
                self._abandon()
                if isinstance(error, PillionError) and error.code in _FINAL:
                    raise
                if loop.time() + delay > deadline or is_no_path(error):
                    raise self._unreachable(error) from error
            except BaseException:
                self._abandon()
                raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, DELAY_MAX)
        self._upkeep = loop.create_task(self._keep_up(), name="pillion: connection")

    def _unreachable(self, error: Exception) -> PillionError:
        path = self._path or named(self._socket)
        if path is None and isinstance(error, PillionError):
            return error
        if path is not None and (why := unfit(path, error)) is not None:
            return Unreachable(f"{path} {why}")
        return Unreachable(
            f"no node answers at {path} within {self._connect_timeout:g} s ({error}); start one with `pillion up`, or name another socket"
        )

    async def _establish(self) -> None:
        """Connects, introduces the app, and declares what is to be declared."""
        loop = asyncio.get_running_loop()
        path = self._path or find(self._socket)
        self._seen = 0
        self.draining = False
        _, link = await loop.create_unix_connection(lambda: Connection(self._on_frame, self._wake, self._on_lost), path)
        self._path = path
        self._link = link
        self._welcomed = loop.create_future()
        self._resuming = self._session is not None
        link.write(self._hello_frame())
        outcome = await asyncio.wait_for(self._welcomed, HELLO_SECONDS)
        if outcome == "undeclared":
            # Half of it was declared when the connection broke: it is given back, and all begins anew.
            await self._bye(link)
            raise Lost("the session is begun anew")
        if outcome == "leaving":
            await self._bye(link)
            raise errors.Draining("the node is about to leave")
        if outcome == "fresh":
            self._declared = False
            await self._client._declare()
            if self._link is not link:
                raise Lost("the connection broke")
            self._declared = True
            if self._client._is_drained and self.draining:
                await self._bye(link)
                raise errors.Draining("the node is about to leave")
        self._process_token = None
        self.conn = link
        self._was_open = True
        self._wake()

    def _hello_frame(self) -> bytes:
        header: Header = {"op": "hello", "id": self.pending.id(), "version": 1, "client": self._name or "python"}
        self._hello = header["id"]
        if self._resuming:
            header["resume"] = {"session": self._session, "secret": self._secret, "seen": self._seen_before}
            return frame(header)
        header["delivery"] = {"window": WINDOW}
        if self._grace_ms:
            header["grace_ms"] = self._grace_ms
        if self._process_token is not None:
            header["process"] = self._process_token
        return frame(header)

    async def _bye(self, link: Connection) -> None:
        """Ends a session that is not wanted, and its connection."""
        self._session = None
        try:
            answer = self.post({"op": "bye"}, b"", link)
            await asyncio.wait_for(answer, HELLO_SECONDS)
        except (PillionError, TimeoutError, asyncio.TimeoutError):
            pass
        link.close()

    async def _keep_up(self) -> None:
        while True:
            await self._lost.wait()
            self._lost.clear()
            delay = DELAY_FIRST
            while self._link is None and not self.closing and not self._is_over:
                if self._client._is_drained:
                    delay = DELAY_MAX
                await asyncio.sleep(delay)
                try:
                    await self._establish()
                except (OSError, PillionError, TimeoutError, asyncio.TimeoutError) as error:
                    log.debug("not connected to the node: %s", error)
                    self._abandon()
                    if self._client._program is not None and self._client._program.is_hosted:
                        self._is_over = True
                        self._client._program.over("noconnection")  # Its node is gone, and this run of it with that.
                delay = min(delay * 2, DELAY_MAX)
            if self._link is not None:
                self._client._on_connected()

    def _abandon(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort("it did not answer")
        self._lost.clear()

    def _on_lost(self, link: Connection, why: str) -> None:
        if link is not self._link:
            return
        self._link = None
        self.conn = None
        self._seen_before += self._seen
        self._seen = 0
        self._settle_gap(0)
        was_open, self._was_open = self._was_open, False
        if self._welcomed is not None and not self._welcomed.done():
            self._welcomed.set_exception(Lost(f"the connection broke: {why}"))
        self._lost_at = asyncio.get_running_loop().time()
        self._wake(everybody=True)
        if not self._declared:
            self.pending.end(Lost("the connection broke", maybe_applied=True))
        loop = asyncio.get_running_loop()
        self.pending.arm(loop.time() + WAIT_SECONDS)
        self._look_for_overdue()
        if not self.closing and not self._client._is_drained:
            log.info("the connection to the node is lost (%s); connecting again", why)
            if was_open:
                self._client._call_back("disconnected", why)
        self._lost.set()

    def _look_for_overdue(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        loop = asyncio.get_running_loop()
        if self.conn is not None:
            return
        soonest = self.pending.overdue(loop.time())
        if soonest is not None:
            self._overdue = loop.call_at(soonest + 0.001, self._look_for_overdue)

    # What comes in

    def _on_frame(self, header: Header, raw: bytes) -> None:
        self._seen += 1
        name = header.get("ev")
        kind = KINDS.get(name)  # type: ignore[arg-type]
        if kind is None:
            self._on_other(name, header, raw)
            return
        if self._gap_timer is not None:
            self._settle_gap(header.get("lost", 0) if name == "gap" and header.get("reason") == "resumed" else 0)
        pid = header.get("pid")
        process = self._client if pid is None else self.processes.get(pid)
        if process is None:
            return
        ct: str | None = None
        if raw and "ct" not in header:
            try:
                body = loads(raw)
            except Exception:  # Whatever another app has written must not end this one's connection.
                body, ct = raw, OCTETS
        else:
            body, ct = body_value(header, raw)
            if name == "rpc" and not raw:
                body = []
        if kind is Message:
            process.mailbox.put(Message(header, body, ct, process))
        else:
            process._deliver(kind(header, body, ct, process))

    def _on_other(self, name: Any, header: Header, raw: bytes) -> None:
        if name == "ok" or name == "error":
            self._on_answer(name, header, raw)
        elif name == "part":
            waiting = self.pending.waiting.get(header.get("id", -1))
            if waiting is not None and waiting.on_part is not None:
                waiting.on_part(header, raw)
        elif name == "cancel":
            process = self.given.pop(header.get("ref", -1), None)
            if process is not None and process._on_cancelled is not None:
                process._on_cancelled(header["ref"])
        elif name == "welcome":
            self._on_welcome(header)
        elif name == "draining":
            self.draining = True
            if self.conn is not None:
                self._client._on_draining_event()
        elif name == "died":
            self._on_died(header)
        elif name == "failed":
            self._on_failed(header)

    def _on_answer(self, name: str, header: Header, raw: bytes) -> None:
        waiting = self.pending.take(header.get("id"))
        if waiting is not None:
            if self._gap_timer is not None and waiting.number > self._commands_before + 1:
                self._settle_gap(0)  # It would have come before the answer to a command that is newer than the `hello`.
            if name == "ok" and waiting.on_ok is not None:
                waiting.on_ok(header)  # It holds, whether somebody still waits for it or not.
            if waiting.answer.done():
                return
            if name == "ok":
                waiting.answer.set_result((header, raw))
            else:
                waiting.answer.set_exception(errors.of_answer(header))
        elif name == "error" and (header.get("id") == self._hello or header.get("id") is None):
            self._hello_refused(header)

    def _hello_refused(self, header: Header) -> None:
        if self._welcomed is None or self._welcomed.done() or self._link is None:
            return
        program = self._client._program
        if self._resuming and header.get("code") == "not_found" and not (program and program.is_hosted):
            self._resuming = False
            self._link.write(self._hello_frame())
        else:
            self._welcomed.set_exception(errors.of_answer(header))

    def _on_welcome(self, header: Header) -> None:
        if self._welcomed is None or self._welcomed.done():
            return
        commands = int(header.get("commands", 1))
        self.node = str(header.get("node", ""))
        resumed = self._resuming
        self._resuming = False
        if resumed and not self._declared:
            self.pending.begin(commands)
            self._welcomed.set_result("undeclared")
            return
        if resumed:
            self._lost_commands = self.pending.resumed(commands)
            self._commands_before = commands - 1
            for process in (self._client, *self.processes.values()):
                if process.mailbox.received:
                    process.mailbox.untold = 0
                    self.write_more(process, WINDOW)
            self._gap_timer = asyncio.get_running_loop().call_later(GAP_SECONDS, self._settle_gap, 0)
            self._welcomed.set_result("resumed")
            return
        # A session of its own: what was counted before its `welcome` counts from the beginning of the connection.
        self._seen_before = 0
        had_one = self._session is not None
        self._session = int(header["session"]) if "session" in header else None
        self._secret = str(header.get("secret", ""))
        if self._client._is_drained and self.draining:
            self.pending.begin(commands)
            self._welcomed.set_result("leaving")
            return
        unsure = self.pending.restarted()
        self.pending.begin(commands)
        self.epoch += 1
        self.given.clear()
        before, self._client.pid = self._client.pid, str(header.get("pid", ""))
        if had_one:
            self._client._on_restarted(before, quiet=False)
            self._client._report(Report(resumed=False, lost_events=0, lost_commands=0, unsure_commands=unsure))
        elif self.epoch > 1:
            self._client._on_restarted(before, quiet=True)
        self._welcomed.set_result("fresh")

    def _settle_gap(self, lost: Any) -> None:
        """Whether a `gap` follows a resumed `welcome` is known now: the report may be made."""
        if self._gap_timer is None:
            return
        self._gap_timer.cancel()
        self._gap_timer = None
        lost = int(lost)
        if lost:
            self.pending.answers_lost(self._commands_before)
        lost_commands, self._lost_commands = self._lost_commands, 0
        self._client._report(Report(resumed=True, lost_events=lost, lost_commands=lost_commands, unsure_commands=0))

    def _on_died(self, header: Header) -> None:
        pid, reason = header.get("pid"), str(header.get("reason", ""))
        if pid == self._client.pid:
            if self._client._program is not None:
                self._is_over = True
                self._client._program.over(reason)
            if self._link is not None:
                self._link.abort(f"this app's process has died: {reason}")
        else:
            process = self.processes.get(str(pid))
            if process is not None:
                process._ended(reason)

    def _on_failed(self, header: Header) -> None:
        if header.get("op") == "hello":
            self._hello_refused(header)
            return
        self._client._failed(
            str(header.get("op", "")), header.get("to"), str(header.get("code", "")), int(header.get("count", 1)), header.get("message")
        )

    # The end

    async def close(self, last: Header) -> None:
        """Ends the session by its last command, and its connection. Who waits gets `Closed`."""
        link = self.conn
        self.closing = True
        if link is not None:
            try:
                await asyncio.wait_for(self.post(last, b"", link), HELLO_SECONDS)
            except (PillionError, TimeoutError, asyncio.TimeoutError):
                pass
        self.conn = None
        if self._upkeep is not None:
            self._upkeep.cancel()
        for timer in (self._gap_timer, self._overdue):
            if timer is not None:
                timer.cancel()
        if self._link is not None:
            self._link.close()
        error = Closed("the client is closed")
        self.pending.end(error)
        self._wake(everybody=True)
        self._wake()

    async def leave(self) -> None:
        """Says `bye` because the node is about to leave, and forgets the session."""
        link = self.conn
        if link is None:
            return
        self.conn = None
        await self._bye(link)

    def event(self, process: Process, header: Header) -> Event:
        """An event that the client makes itself."""
        return KINDS[header["ev"]](header, None, None, process)
