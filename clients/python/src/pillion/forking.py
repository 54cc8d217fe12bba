"""What a child of this process has of its clients: nothing.

A forked child shares the socket. What it wrote would be read as part of the parent's frames, and while it lives the node would not hear
that the parent has ended.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import Session

FORKED = "this client belongs to the process that this one was forked from; connect anew in the child"
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def watch(session: Session) -> None:
    """From now on a child gives this session up."""
    _sessions.add(session)


def _in_child() -> None:
    for session in list(_sessions):
        session.closing = True
        session.closed_because = FORKED
        link, session.conn, session._link = session._link, None, None
        if link is not None:
            link.give_up()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
