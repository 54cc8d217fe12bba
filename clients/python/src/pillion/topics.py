"""What is heard bit by bit: topics, and who comes and goes. Each has a process, so a mailbox, of its own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union

from .errors import Closed
from .events import Event, Gap, GroupChange, Message, NodeDown, NodeUp, PresenceChange, Present
from .pending import Header
from .process import Process

if TYPE_CHECKING:
    from .client import Client

log = logging.getLogger("pillion")
E = TypeVar("E", bound=Event)
S = TypeVar("S", bound="Watch[Any]")


class Watch(Generic[E]):
    """An iterator over events. `async with` opens it and ends it; or await it, and `close` it.

    It goes on after the node was restarted, and ends when the app leaves a draining node, once what was delivered is taken. Where
    messages are missing `on_gap` is called with the `Gap`, which may be a coroutine function; without one it is logged. One that is not closed
    keeps its process in the node, for as long as the app lives, whether somebody has the iterator or not.
    """

    def __init__(self, client: Client, key: tuple[Any, ...], header: Header, on_gap: Callable[[Gap], object] | None = None) -> None:
        self._client = client
        self._key = key
        self._header = header
        self._on_gap = on_gap
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The process whose mailbox it is."""
        if self._process is None:
            raise Closed("this is not open: use `async with`, or await it first")
        return self._process

    def __await__(self: S) -> Generator[Any, None, S]:
        return self._open().__await__()

    async def __aenter__(self: S) -> S:
        return await self._open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self: S) -> S:
        if self._process is None or self._process.exit_reason is not None:
            process = await self._client.spawn(label=self._label)
            self._process = process
            self._client._watches[self] = None
            try:
                await process._declare_now(self._key, self._header)
            except BaseException:
                await self.close()
                raise
        return self

    @property
    def _label(self) -> str:
        return " ".join(str(part) for part in self._key)[:200]

    async def close(self) -> None:
        """Ends it. Iterating then gives what was delivered before, and ends."""
        self._client._watches.pop(self, None)
        if self._process is not None:
            await self._process.exit()

    def _end(self) -> None:
        """The node has been left: this is not declared again."""
        self._client._watches.pop(self, None)
        if self._process is not None:
            self._process._ended("shutdown")

    async def events(self) -> AsyncIterator[E | Gap]:
        """All events, each `Gap` among them where the messages would have been."""
        async for event in self.process:
            if not event.counted:
                self._heard(event)
            yield event  # type: ignore[misc]

    async def __aiter__(self) -> AsyncIterator[E]:
        mailbox = self.process.mailbox
        while True:
            event = mailbox.take()
            if event is None:
                try:
                    event = await mailbox.receive(iterating=True)
                except Closed:
                    return
                if event is None:
                    return
            if not event.counted:
                self._heard(event)
                if isinstance(event, Gap):
                    self._missed(event)
                    continue
            yield event  # type: ignore[misc]

    def _missed(self, gap: Gap) -> None:
        if self._on_gap is not None:
            self._client._calls_back("gap", self._on_gap, gap)
        else:
            log.warning("%s: messages are missing: %s, %s", self._label, gap.lost or "nobody knows how many", gap.reason)

    def _heard(self, event: Event) -> None:
        """A signal was taken."""


class Subscription(Watch[Message]):
    """What is published to a topic or a pattern."""

    def __init__(
        self, client: Client, topic: str, group: str | None, metadata: Any, sync: bool, on_gap: Callable[[Gap], object] | None
    ) -> None:
        header: Header = {"op": "subscribe", "topic": topic}
        fields = {"group": group, "metadata": metadata, "sync": sync or None}
        header.update((name, value) for name, value in fields.items() if value is not None)
        super().__init__(client, ("subscribe", topic, group), header, on_gap)
        self.topic = topic


class PresenceWatch(Watch[PresenceChange]):
    """Who is present under a topic. The first changes have all who are there."""

    def __init__(self, client: Client, topic: str) -> None:
        super().__init__(client, ("monitor_presence", topic), {"op": "monitor_presence", "topic": topic})
        self.topic = topic
        self.present: dict[tuple[str, str], Present] = {}
        """Who is there, by key and pid, after the changes that were taken."""

    def _heard(self, event: Event) -> None:
        if isinstance(event, PresenceChange):
            for each in event.leaves:
                self.present.pop((each.key, each.pid), None)
            for each in event.joins:
                self.present[each.key, each.pid] = each
        elif isinstance(event, Gap) and event.reason == "restarted":
            self.present.clear()


class GroupWatch(Watch[GroupChange]):
    """Who is in a group, or in every group whose name begins with a prefix. The first changes have all that are there."""

    def __init__(self, client: Client, header: Header) -> None:
        super().__init__(client, ("monitor_group", header.get("group"), header.get("prefix")), {"op": "monitor_group", **header})


class NodeWatch(Watch[Union[NodeUp, NodeDown]]):
    """Nodes that come and go from now on."""

    def __init__(self, client: Client, node_type: str) -> None:
        header: Header = {"op": "monitor_nodes"}
        if node_type != "all":
            header["node_type"] = node_type
        super().__init__(client, ("monitor_nodes",), header)
