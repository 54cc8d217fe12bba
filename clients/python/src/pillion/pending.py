"""Commands on their way: who waits for which answer, and what became of those that were written when the connection broke."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from .errors import Lost, PillionError, Timeout

Header = dict[str, Any]
Answer = tuple[Header, bytes]
OnPart = Callable[[Header, bytes], None]
OnOk = Callable[[Header], None]

_MORES_MAX = 4096


class Waiting:
    """A command that has an answer to come."""

    __slots__ = ("answer", "number", "deadline", "armed", "on_part", "on_ok")

    def __init__(
        self, answer: asyncio.Future[Answer], number: int, deadline: float | None, on_part: OnPart | None, on_ok: OnOk | None
    ) -> None:
        self.answer = answer
        self.number = number
        self.deadline = deadline
        self.armed = deadline is None
        self.on_part = on_part
        self.on_ok = on_ok

    def fail(self, error: PillionError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Pending:
    """Numbers commands as the node counts them, and keeps who waits."""

    __slots__ = ("waiting", "written", "_answered", "_mores", "_id")

    def __init__(self) -> None:
        self.waiting: dict[int, Waiting] = {}
        self.written = 0
        """How many commands this session has written, its `hello`s among them."""
        self._answered = 0
        self._mores: deque[int] = deque(maxlen=_MORES_MAX)
        self._id = 0

    def id(self) -> int:
        self._id += 1
        return self._id

    def wrote_more(self) -> None:
        """A command that the app knows nothing of."""
        self.written += 1
        self._mores.append(self.written)

    def take(self, id: Any) -> Waiting | None:
        """Who waits for this answer, which has come."""
        waiting = self.waiting.pop(id, None)
        if waiting is not None and waiting.number > self._answered:
            self._answered = waiting.number
        return waiting

    def _without_id(self, behind: int) -> int:
        """How many commands of the app without an `id` were written behind this number, all with one being unanswered."""
        waiting = sum(1 for each in self.waiting.values() if each.number > behind)
        mores = sum(1 for number in self._mores if number > behind)
        return max(0, self.written - behind - waiting - mores)

    def resumed(self, commands: int) -> int:
        """The node has processed so many, the new `hello` among them. Gives how many without an `id` it has not carried out."""
        done = commands - 1
        lost = self._without_id(done)
        for id, waiting in list(self.waiting.items()):
            if waiting.number > done:
                del self.waiting[id]
                waiting.fail(Lost("the connection broke before the node had read this; it was not carried out"))
        self.written = commands
        self._mores.clear()
        self._answered = min(self._answered, done)
        return lost

    def answers_lost(self, before: int) -> None:
        """Answers to the commands up to this number may have been lost."""
        for id, waiting in list(self.waiting.items()):
            if waiting.number <= before:
                del self.waiting[id]
                waiting.fail(Lost("the connection broke and the answer may be lost", maybe_applied=True))

    def restarted(self) -> int:
        """The session is over. Gives how many without an `id` may have been carried out or not."""
        unsure = self._without_id(self._answered)
        for waiting in self.waiting.values():
            waiting.fail(Lost("the connection broke and the session is over", maybe_applied=True))
        self.waiting.clear()
        return unsure

    def begin(self, commands: int) -> None:
        """A session has begun, and this is what the node has counted so far."""
        self.written = commands
        self._answered = commands
        self._mores.clear()

    def end(self, error: PillionError) -> None:
        for waiting in self.waiting.values():
            waiting.fail(error)
        self.waiting.clear()

    def arm(self, rest: float) -> None:
        """The connection is gone: from now on those deadlines are the client's. `rest` is that of what has none."""
        for waiting in self.waiting.values():
            if waiting.armed:
                waiting.deadline = rest

    def overdue(self, now: float) -> float | None:
        """Fails what waits in vain, and gives when to look again."""
        soonest: float | None = None
        for waiting in self.waiting.values():
            if waiting.answer.done() or waiting.deadline is None:
                continue
            if waiting.deadline <= now:
                waiting.fail(Timeout("no answer in time; the connection to the node is lost meanwhile", maybe_applied=True))
            elif soonest is None or waiting.deadline < soonest:
                soonest = waiting.deadline
        return soonest
