"""Mailboxes: events in their order, taken out one by one, or by a predicate while the others stay."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import Closed, PillionError
from .events import Event

if TYPE_CHECKING:
    from .process import Process

WINDOW = 256
"""How many messages, casts, calls and rpcs the node gives ahead of what was taken out."""
TELL_AT = WINDOW // 2

Match = Callable[[Event], bool]


class Mailbox:
    """The events of one process. All of it runs on the loop of the client."""

    __slots__ = ("_process", "_events", "_waiters", "_sink", "untold", "received", "_ended", "_error", "_finishing")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._events: deque[Event] = deque()
        self._waiters: list[tuple[Match | None, asyncio.Future[Event | None], bool]] = []
        self._sink: Callable[[Event], None] | None = None
        self.untold = 0
        self.received = False
        self._ended = False
        self._finishing = False
        self._error: PillionError | None = None

    def __len__(self) -> int:
        return len(self._events)

    def sink(self, sink: Callable[[Event], None]) -> None:
        """From now on every event is given to this function, which says by `consumed` when one is done with."""
        self._sink = sink
        while self._events:
            sink(self._events.popleft())

    def put(self, event: Event) -> None:
        if event.counted:
            self.received = True
        if self._sink is not None:
            self._sink(event)
            return
        if self._waiters and self._give(event):
            return
        if not self._ended:
            self._events.append(event)

    def _give(self, event: Event) -> bool:
        """To the first who waits for it."""
        for at, (match, waiter, _) in enumerate(self._waiters):
            if not waiter.done() and (match is None or _wants(match, event, waiter)):
                del self._waiters[at]
                if event.counted:
                    self.consumed()
                waiter.set_result(event)
                return True
        return False

    def consumed(self, n: int = 1) -> None:
        """So many counted events are done with."""
        self.untold += n
        if self.untold >= TELL_AT:
            self.tell()

    def tell(self) -> None:
        """Tells the node what was consumed, so that it gives more."""
        if self.untold > 0:
            n, self.untold = self.untold, 0
            self._process._more(n)

    def restart(self) -> None:
        """The node has forgotten what it had given."""
        self.untold = 0
        self.received = False

    def take(self, match: Match | None = None) -> Event | None:
        """The first event that is wanted, if it is there."""
        events = self._events
        if match is None:
            if not events:
                return None
            event = events.popleft()
            if event.counted:
                self.untold += 1
                if self.untold >= TELL_AT:
                    self.tell()
            return event
        else:
            for at, event in enumerate(events):
                if match(event):
                    del events[at]
                    break
            else:
                return None
        if event.counted:
            self.consumed()
        return event

    async def receive(
        self, match: Match | None = None, timeout: float | None = None, *, iterating: bool = False
    ) -> Event | None:
        """The first event that is wanted; None when the time is over, or an iteration.

        Raises `Closed` once it has ended and holds none.
        """
        event = self.take(match)
        if event is not None:
            return event
        if iterating and self._finishing:
            return None
        if self._ended:
            raise self._error or Closed(f"{self._process} has ended")
        if timeout is not None and timeout <= 0:
            self.tell()
            return None
        self.tell()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Event | None] = loop.create_future()
        self._waiters.append((match, waiter, iterating))
        timer = loop.call_later(timeout, _over, waiter) if timeout is not None else None
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It was given in the moment in which its receiver went away: it is not lost.
                given = waiter.result()
                if given is not None:
                    self.give_back(given)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters = [each for each in self._waiters if each[1] is not waiter]

    def give_back(self, event: Event) -> None:
        """Its receiver went away in the moment in which it was given: it is the first again, or another's who waits."""
        if event.counted:
            self.untold -= 1  # Below zero where it was told already: then the next one is not.
        if not self._waiters or not self._give(event):
            self._events.appendleft(event)

    def end(self, error: PillionError | None = None) -> None:
        """Nothing more comes. What is there may be taken; who waits hears so."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        waiters, self._waiters = self._waiters, []
        for _, waiter, _ in waiters:
            if not waiter.done():
                waiter.set_exception(error or Closed(f"{self._process} has ended"))

    def finish(self) -> None:
        """Iterations end once what is there is taken."""
        self._finishing = True
        for _, waiter, iterating in self._waiters:
            if iterating:
                _over(waiter)

    def reopen(self) -> None:
        """Iterations go on again."""
        self._finishing = False

    @property
    def has_ended(self) -> bool:
        return self._ended


def _wants(match: Match, event: Event, waiter: asyncio.Future[Event | None]) -> bool:
    try:
        return match(event)
    except Exception as error:  # It is the receiver's predicate: its error is the receiver's.
        waiter.set_exception(error)
        return False


def _over(waiter: asyncio.Future[Event | None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
