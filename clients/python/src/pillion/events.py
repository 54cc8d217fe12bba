"""What lies in a mailbox.

Each event has the `process` that received it. Events can be matched by class and shape:

    match event:
        case Message(["add", sender, product]): ...
        case Down(ref, reason): ...
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import PillionError, TooLarge
from .frames import body_bytes, raw_frame, uint

if TYPE_CHECKING:
    from .process import Process

STACK_MAX = 16 * 1024
ASKED_BYTES = 64 * 1024
"""A reply of more is confirmed by the node, which may not take so much."""
_REPLY = b"\xa2\x62op\x65reply\x63ref"


class Event:
    """Any event; of those that this client has no class for as well (`name` says what it is)."""

    __slots__ = ("header", "body", "ct", "process")

    counted = False
    """Whether it takes room in the window of its process until it is taken out of the mailbox."""

    def __init__(self, header: Mapping[str, Any], body: Any, ct: str | None, process: Process) -> None:
        self.header = header
        """All members as they came."""
        self.body = body
        """The value; bytes where there is a content type `ct`."""
        self.ct = ct
        self.process = process

    @property
    def name(self) -> str:
        """The event's name: `message`, `down` and so on."""
        return str(self.header["ev"])

    def __repr__(self) -> str:
        members = " ".join(f"{key}={value!r}" for key, value in self.header.items() if key not in ("ev", "pid", "as"))
        body = "" if self.body is None else f" body={self.body!r}"
        return f"<{type(self).__name__} {members}{body}>"


class Message(Event):
    """Something that was sent, or published to a topic."""

    __slots__ = ()
    __match_args__ = ("body", "sender")
    counted = True

    @property
    def sender(self) -> str:
        """The pid of the sender."""
        return str(self.header.get("from"))

    @property
    def topic(self) -> str | None:
        """Where it was published; None for what was sent."""
        return self.header.get("topic")

    @property
    def retained(self) -> bool:
        """Whether it was kept before this process subscribed."""
        return self.header.get("retained") is True

    @property
    def redelivered(self) -> bool:
        """Whether another member of the queue group had been given it and had not taken it."""
        return self.header.get("redelivered") is True


class Cast(Message):
    """A request that wants no answer."""

    __slots__ = ()


class Call(Event):
    """A request that wants an answer: `reply` or `fail`, once, now or later, from anywhere in the program."""

    __slots__ = ("ref", "epoch")
    __match_args__: tuple[str, ...] = ("body", "sender")
    counted = True

    def __init__(self, header: Mapping[str, Any], body: Any, ct: str | None, process: Process) -> None:
        super().__init__(header, body, ct, process)
        self.ref: int | None = header.get("ref")
        """None where nobody waits for an answer (`rpc_cast`)."""
        self.epoch = process.client._session.epoch

    @property
    def sender(self) -> str:
        """The pid of the caller."""
        return str(self.header.get("from"))

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more: the deadline is over, or the caller or its node is lost."""
        return self.ref is not None and not self.process._is_given(self)

    async def reply(self, body: Any = None, *, ct: str | None = None, more: bool = False) -> None:
        """Answers. With `more` it is a part of the answer, and others follow: it waits until the node has room for the next.

        A late answer, a second one, and one to a call of an earlier connection are dropped silently, as nobody can know. One of more than
        64 KiB waits until the node has taken it, and raises `TooLarge` when it does not: the call is not answered then.
        """
        await self._reply(body, ct, more)

    async def _reply(self, body: Any, ct: str | None = None, more: bool = False) -> None:
        raw = body_bytes(body, ct)
        if self.ref is None or not self.process._is_given(self, take=not more):
            return
        session = self.process.client._session
        if not more and len(raw) > ASKED_BYTES:
            await self._reply_asking(body, ct)
        elif more:
            await session.request({"op": "reply", "ref": self.ref, "more": True}, body, ct)
        elif ct is None:
            await session.write_raw(_REPLY + uint(self.ref), raw)
        else:
            await session.write({"op": "reply", "ref": self.ref, "ct": ct}, raw)

    async def _reply_asking(self, body: Any, ct: str | None) -> None:
        """Answers, and hears whether the node takes so much: else the caller would wait in vain."""
        session = self.process.client._session
        try:
            await session.request({"op": "reply", "ref": self.ref}, body, ct)
        except TooLarge as error:
            # Not answered yet: who raises this further fails the call by it.
            if self.ref is not None and self.epoch == session.epoch:
                session.given[self.ref] = self.process
            raise error

    def _reply_now(self, body: Any) -> bool:
        """Answers if there is room to write at once."""
        raw = body_bytes(body, None)
        if self.ref is None:
            return True
        session = self.process.client._session
        conn = session.conn
        if conn is None or conn.is_full or session.queue or len(raw) > ASKED_BYTES:
            return False
        if self.process._is_given(self, take=True):
            session.pending.written += 1
            conn.write(raw_frame(_REPLY + uint(self.ref), raw))
        return True

    async def fail(self, error: BaseException | str, *, error_class: str | None = None, stack: str | None = None) -> None:
        """Ends the call with an error: an exception, or its text with a class.

        The class `undef` says that there is no such function and that nothing was done.
        """
        await self._fail(error, error_class, stack)

    async def _fail(self, error: BaseException | str, error_class: str | None = None, stack: str | None = None) -> None:
        if self.ref is None or not self.process._is_given(self, take=True):
            return
        await self.process.client._session.write(raised(self.ref, error, error_class, stack), b"")


def raised(ref: int, error: BaseException | str, error_class: str | None, stack: str | None) -> dict[str, Any]:
    """The `raise` command for an error."""
    if isinstance(error, BaseException):
        error_class = error_class or type(error).__name__
        stack = stack if stack is not None else "".join(traceback.format_exception(type(error), error, error.__traceback__))
    header: dict[str, Any] = {"op": "raise", "ref": ref}
    if error_class is not None:
        header["class"] = _end_of(error_class, 255)
    header["reason"] = _end_of(text_of(error), STACK_MAX)
    if stack:
        header["stack"] = _end_of(stack, STACK_MAX)
    return header


def text_of(error: BaseException | str) -> str:
    """What an error says, without its type. `KeyError('pears')` says `pears`."""
    if isinstance(error, PillionError):
        return error.message
    if isinstance(error, KeyError) and len(error.args) == 1:
        return str(error.args[0])
    return str(error)


def reason_of(error: BaseException) -> str:
    """The exit reason that stands for an error, `CLASS: TEXT`, of at most 1024 bytes."""
    text = text_of(error)
    whole = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return whole.encode("utf-8", "replace")[:1024].decode("utf-8", "ignore")


def _end_of(text: str, size: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= size else raw[-size:].decode("utf-8", "ignore")


class Rpc(Call):
    """A call of a function that this process serves."""

    __slots__ = ()
    __match_args__ = ("module", "function", "body")

    @property
    def module(self) -> str:
        return str(self.header.get("module"))

    @property
    def function(self) -> str:
        return str(self.header.get("function"))


class Down(Event):
    """A monitored process is gone, or was not there. Exactly one comes for each monitor."""

    __slots__ = ()
    __match_args__ = ("ref", "reason")

    @property
    def ref(self) -> int:
        """The `ref` of the monitor."""
        return int(self.header["ref"])

    @property
    def pid(self) -> str | None:
        """Who it was; None when no pid is known."""
        return self.header.get("from")

    @property
    def address(self) -> str | None:
        """The address that was monitored, when it was no pid."""
        return self.header.get("name")

    @property
    def reason(self) -> str:
        return str(self.header.get("reason"))


class Exit(Event):
    """An exit signal, to a process that traps exits."""

    __slots__ = ()
    __match_args__ = ("sender", "reason")

    @property
    def sender(self) -> str:
        """The pid of the linked process, or of who sent the signal."""
        return str(self.header.get("from"))

    @property
    def reason(self) -> str:
        return str(self.header.get("reason"))


class Gap(Event):
    """Here `lost` messages are missing.

    The reason is `overflow` (the mailbox was full), `resumed` (the connection broke), or `restarted`: the node is a new one, and nobody
    knows how many (`lost` is 0).
    """

    __slots__ = ()
    __match_args__ = ("lost", "reason")

    @property
    def lost(self) -> int:
        return int(self.header.get("lost", 0))

    @property
    def reason(self) -> str:
        return str(self.header.get("reason"))


class _OfNode(Event):
    __slots__ = ()
    __match_args__: tuple[str, ...] = ("node",)

    @property
    def node(self) -> str:
        return str(self.header.get("node"))

    @property
    def incarnation(self) -> str | None:
        """Which run of the node it is."""
        return self.header.get("incarnation")

    @property
    def hidden(self) -> bool:
        return self.header.get("hidden") is True


class NodeUp(_OfNode):
    """A node is connected."""

    __slots__ = ()

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.header.get("labels") or {})


class NodeDown(_OfNode):
    """A node is lost."""

    __slots__ = ()
    __match_args__ = ("node", "reason")

    @property
    def reason(self) -> str:
        return str(self.header.get("reason"))


class GroupChange(Event):
    """Who is in a group that is watched has changed. The first one has all that are there."""

    __slots__ = ()
    __match_args__ = ("group", "joined", "left")

    @property
    def ref(self) -> int:
        return int(self.header["ref"])

    @property
    def group(self) -> str:
        return str(self.header.get("group"))

    @property
    def joined(self) -> list[str]:
        return self._pids("joined")

    @property
    def left(self) -> list[str]:
        return self._pids("left")

    def _pids(self, name: str) -> list[str]:
        listed = self.body if self.header.get("as") == name else self.header.get(name)
        return [str(pid) for pid in listed or ()]


class NameConflict(Event):
    """Two processes were found to have the same global name. `winner` has it now; None when neither has."""

    __slots__ = ()
    __match_args__ = ("address", "winner")

    @property
    def address(self) -> str:
        return str(self.header.get("name"))

    @property
    def winner(self) -> str | None:
        return self.header.get("winner")


@dataclass(frozen=True)
class Present:
    """One who is present: a process, under a key of a topic."""

    key: str
    pid: str
    ref: int
    metadata: Any = None
    prev: int | None = None
    """The `ref` of what it was before, where this is a change."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Present:
        return cls(str(row["key"]), str(row["pid"]), int(row["ref"]), row.get("metadata"), row.get("prev"))


class PresenceChange(Event):
    """Who is present under a topic that is watched has changed: `leaves`, as they were, then `joins`, as they are."""

    __slots__ = ()
    __match_args__ = ("joins", "leaves")

    @property
    def topic(self) -> str:
        return str(self.header.get("topic"))

    @property
    def joins(self) -> list[Present]:
        return self._rows("joins")

    @property
    def leaves(self) -> list[Present]:
        return self._rows("leaves")

    @property
    def more(self) -> bool:
        """Whether some of those who were there already are still to come."""
        return self.header.get("more") is True

    def _rows(self, name: str) -> list[Present]:
        listed = self.body if self.header.get("as") == name else self.header.get(name)
        return [Present.of(row) for row in listed or ()]


KINDS: dict[str, type[Event]] = {
    "message": Message,
    "cast": Cast,
    "call": Call,
    "rpc": Rpc,
    "down": Down,
    "exit": Exit,
    "gap": Gap,
    "nodeup": NodeUp,
    "nodedown": NodeDown,
    "group": GroupChange,
    "presence": PresenceChange,
    "name_conflict": NameConflict,
}
