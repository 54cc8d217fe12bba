"""What a process does in its own name: names, groups, presence, topics, functions of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, Union

from .errors import NoProc
from .frames import ABSENT, body_bytes, body_value, header_bytes, raw_frame
from .pending import Answer, Header

if TYPE_CHECKING:
    from .client import Client

TIMEOUT = 5.0
"""How long a call may take unless told otherwise, in seconds."""
_HEADS_MAX = 1024


class HasPid(Protocol):
    """Anything of this app that has a pid: a process, a `GenServer`, the client."""

    @property
    def pid(self) -> str: ...


Address = Union[str, HasPid]
"""Whom to reach: a pid, a name, `name@node`, `global:name`, `group:name`, or what has a pid here."""
Mode = Literal["wait", "try", "lossy"]
Scope = Literal["local", "global"]
OnConflict = Literal["keep_oldest", "keep_newest", "notify", "kill_loser"]

_STAGES = {
    "flag": 0,
    "register": 1,
    "serve": 2,
    "join": 3,
    "subscribe": 4,
    "track": 5,
    "monitor_nodes": 6,
    "monitor_group": 7,
    "monitor_presence": 8,
}
"""In which order all of it is declared again."""


def address(to: Address) -> str:
    return to if isinstance(to, str) else to.pid


def milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000 + 0.5))


class Acting:
    """A process as commands see it: most have its pid in them, and some are declared again when the node was restarted."""

    client: Client
    pid: str
    exit_reason: str | None
    _field: str | None
    _spawn: Header | None

    def __init__(self) -> None:
        self._heads: dict[Any, Any] = {}
        self._declared: dict[tuple[Any, ...], Header] = {}

    # Names and groups

    async def register(
        self, name: str, *, scope: Scope = "local", on_conflict: OnConflict | None = None, replace: bool = False
    ) -> None:
        """Gives this process a name: of its node, or with `scope="global"` of the whole mesh. Raises `Taken`."""
        header: Header = {"op": "register", "name": name}
        if scope != "local":
            header["scope"] = scope
        if on_conflict is not None:
            header["on_conflict"] = on_conflict
        if replace:
            header["replace"] = True
        await self._declare_now(("register", scope, name), header)

    async def unregister(self, name: str, *, scope: Scope = "local") -> None:
        """Takes a name back."""
        header: Header = {"op": "unregister", "name": name}
        if scope != "local":
            header["scope"] = scope
        await self.client._session.request(header)
        self._declared.pop(("register", scope, name), None)
        if scope == "local" and self._spawn is not None and self._spawn.get("name") == name:
            del self._spawn["name"]

    async def join(self, group: str) -> None:
        """Joins a group. It may join several times and is a member as often."""
        times = sum(1 for key in self._declared if key[:2] == ("join", group))
        await self._declare_now(("join", group, times), {"op": "join", "group": group})

    async def leave(self, group: str) -> None:
        """Takes one `join` back."""
        await self._request({"op": "leave", "group": group})
        times = [key for key in self._declared if key[:2] == ("join", group)]
        if times:
            del self._declared[times[-1]]

    # Presence

    async def track(self, topic: str, key: str, metadata: Any = None) -> int:
        """From now on this process is present under the topic and key, on every node, until it ends. Gives the `ref`. Raises `Taken`."""
        return await self._present("track", topic, key, metadata)

    async def update_presence(self, topic: str, key: str, metadata: Any = None) -> int:
        """Changes what is known of a presence. Raises `NotFound` where this process is not present."""
        return await self._present("update_presence", topic, key, metadata)

    async def _present(self, op: str, topic: str, key: str, metadata: Any) -> int:
        header: Header = {"op": op, "topic": topic, "key": key}
        if metadata is not None:
            header["metadata"] = metadata
        answer, _ = await self._request(header)
        self._declared["track", topic, key] = {**header, "op": "track"}
        return int(answer.get("ref", 0))

    async def untrack(self, topic: str | None = None, key: str | None = None) -> None:
        """Present no more: under this key, under no key of the topic, or nowhere."""
        header: Header = {"op": "untrack"}
        if topic is not None:
            header["topic"] = topic
        if key is not None:
            header["key"] = key
        await self._request(header)
        for each in [each for each in self._declared if each[0] == "track"]:
            if topic in (None, each[1]) and key in (None, each[2]):
                del self._declared[each]

    # Topics and functions

    async def publish(
        self,
        topic: str,
        body: Any = None,
        *,
        ct: str | None = None,
        scope: Literal["all", "local"] | None = None,
        node: str | None = None,
        exclude: str | bool | None = None,
        mode: Mode | None = None,
        retain: bool = False,
        confirm: bool = False,
    ) -> None:
        """Publishes to every subscription that matches. As `send`, it waits for an answer only with `confirm`.

        With `retain` the node keeps it as the topic's last value for those who subscribe later; `ABSENT` as the body clears that.
        """
        header: Header = {"op": "publish", "topic": topic}
        fields = {"scope": scope, "node": node, "exclude": exclude, "mode": mode, "retain": retain or None}
        header.update((name, value) for name, value in fields.items() if value is not None)
        if confirm:
            await self._request(header, body, ct)
        elif len(header) > 2 or ct is not None:
            await self._write(header, body, ct)
        else:
            raw = body_bytes(body, None)
            session = self.client._session
            conn = session.conn
            if conn is None or conn.is_full or conn.is_long or session.queue:
                conn = await session.ready()
            key = ("publish", topic)
            head = self._heads.get(key) or self._head(key, topic, header)
            session.pending.written += 1
            conn.write(raw_frame(head, raw))

    async def rpc(self, node: str, module: str, function: str, *args: Any, timeout: float = TIMEOUT) -> Any:
        """Calls a function of a module on a node, or on the nearest that has it (`any`). Ends as a `call` does; raises `Undef` too."""
        header: Header = {"op": "rpc", "node": node, "module": module, "function": function}
        if timeout != TIMEOUT:
            header["timeout_ms"] = milliseconds(timeout)
        return body_value(*await self._request(header, list(args), timeout=timeout))[0]

    async def rpc_cast(self, node: str, module: str, function: str, *args: Any) -> None:
        """The same without an answer: whoever is not there is not there."""
        await self._write({"op": "rpc_cast", "node": node, "module": module, "function": function}, list(args))

    # How it is done

    def _acting(self, header: Header) -> Header:
        if self._field is not None:
            if self.exit_reason is not None:
                raise NoProc(f"{self.pid} has ended: {self.exit_reason}", reason=self.exit_reason)
            return {**header, "pid": self._field}
        return header

    async def _request(self, header: Header, body: Any = ABSENT, ct: str | None = None, **more: Any) -> Answer:
        return await self.client._session.request(header, body, ct, by=self, **more)

    async def _write(self, header: Header, body: Any = ABSENT, ct: str | None = None) -> None:
        raw = body_bytes(body, ct)
        if ct is not None:
            header = {**header, "ct": ct}
        await self.client._session.write(header, raw, self)

    async def _declare_now(self, key: tuple[Any, ...], header: Header) -> Header:
        def on_ok(_: Header) -> None:
            self._declared[key] = header

        answer, _ = await self._request(header, on_ok=on_ok)
        return answer

    def _head(self, key: Any, to: str, header: Header) -> bytes:
        if self._field is not None:
            header["pid"] = self._field
        head = header_bytes(header)
        if len(self._heads) >= _HEADS_MAX:
            self._heads.clear()
        self._heads[key] = head
        return head
