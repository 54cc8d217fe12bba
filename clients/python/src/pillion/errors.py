"""What can go wrong, one class for each code of the protocol.

Every error has `code` (for programs), `message` (for people) and `maybe_applied`: whether what was asked may have been done all the
same. Where it is false it was not, and asking again is safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PillionError(Exception):
    """A command that was not carried out, or whose outcome nobody knows."""

    code: str = "error"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        maybe_applied: bool = False,
        reason: str | None = None,
        error_class: str | None = None,
        stack: str | None = None,
        nodes: list[str] | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.message = message
        self.maybe_applied = maybe_applied
        self.reason = reason
        """Why a process died (`exit`), or the text of what the callee raised (`exception`)."""
        self.error_class = error_class
        """The type of what the callee raised, in its language's words (`exception`)."""
        self.stack = stack
        """Where the callee raised it, when it said so (`exception`)."""
        self.nodes = nodes
        """The nodes that it is about, where the answer names some."""

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class BadArg(PillionError, ValueError):
    """The command is not well formed, or cannot be meant."""

    code = "badarg"


class BadOp(PillionError):
    """There is no such command; the sentence names the nearest."""

    code = "badop"


class CallingSelf(PillionError):
    """A process called itself. Nothing was done."""

    code = "calling_self"


class Cancelled(PillionError):
    """The command was taken back."""

    code = "cancelled"


class CannotStart(PillionError):
    """A program cannot be started; the sentence says which and why."""

    code = "cannot_start"


class Denied(PillionError, PermissionError):
    """Not this app's, or not for it."""

    code = "denied"


class Draining(PillionError):
    """The node is about to leave, and does not do this any more."""

    code = "draining"


class NoConnection(PillionError, ConnectionError):
    """The other node is not connected, or was lost meanwhile."""

    code = "noconnection"


class NoProc(PillionError, LookupError):
    """There is no such process, or nobody has the name."""

    code = "noproc"


class NotFound(PillionError, LookupError):
    """There is nothing of that name."""

    code = "not_found"


class Overloaded(PillionError):
    """A queue is full. Try again later."""

    code = "overloaded"


class Taken(PillionError):
    """Somebody has the name, or is present there already."""

    code = "taken"


class Timeout(PillionError, TimeoutError):
    """No answer in time."""

    code = "timeout"


class TooLarge(PillionError, ValueError):
    """Longer than this node takes."""

    code = "too_large"


class Undef(PillionError, LookupError):
    """The callee has no such function, or the node no such factory."""

    code = "undef"


class Unsupported(PillionError):
    """Something that this node, or another one, does not have."""

    code = "unsupported"


class RemoteError(PillionError):
    """The callee failed: `error_class`, `reason` and `stack` say how."""

    code = "exception"


class Exited(PillionError):
    """The process died; `reason` says why."""

    code = "exit"


class Lost(PillionError, ConnectionError):
    """The connection to the node was lost, or there was none in time. `maybe_applied` says whether the node may have had the command."""

    code = "lost"


class Closed(Lost):
    """The client, the process or the subscription has been closed. Nothing was done."""

    code = "closed"


class Unreachable(PillionError, ConnectionError):
    """No node answers at the socket, or none can be found; the sentence says what to do."""

    code = "unreachable"


_CLASSES: dict[str, type[PillionError]] = {
    each.code: each
    for each in (
        BadArg, BadOp, CallingSelf, Cancelled, CannotStart, Denied, Draining, NoConnection, NoProc, NotFound, Overloaded, Taken,
        Timeout, TooLarge, Undef, Unsupported, RemoteError, Exited, Lost, Closed, Unreachable,
    )
}  # fmt: skip


def of_answer(header: Mapping[str, Any]) -> PillionError:
    """The error that an answer says; a code that is not known is a plain `PillionError` of that code."""
    code = str(header.get("code", "error"))
    kind = _CLASSES.get(code, PillionError)

    def text(name: str) -> str | None:
        value = header.get(name)
        return None if value is None else str(value)

    nodes = header.get("nodes")
    return kind(
        str(header.get("message", code)),
        code=None if kind is not PillionError else code,
        maybe_applied=bool(header.get("maybe_applied", False)),
        reason=text("reason"),
        error_class=text("class"),
        stack=text("stack"),
        nodes=[str(node) for node in nodes] if isinstance(nodes, list) else None,
    )
