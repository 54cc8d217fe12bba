"""What an app can ask its node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

from .acting import TIMEOUT, Address, Scope, address, milliseconds
from .errors import PillionError, of_answer
from .events import Present
from .frames import ABSENT, body_value
from .pending import Header
from .process import Process

NodeState = Literal["self", "this", "connected", "visible", "hidden", "known"]


@dataclass(frozen=True)
class Result:
    """What one of several nodes answered: the `value`, or the `error`."""

    node: str
    value: Any = None
    error: PillionError | None = None

    def get(self) -> Any:
        """The value; raises the error."""
        if self.error is not None:
            raise self.error
        return self.value


def _results(answer: Any) -> list[Result]:
    results = []
    for row in answer or ():
        error = row.get("error")
        results.append(Result(str(row["node"]), row.get("body"), None if error is None else of_answer(error)))
    return results


class Queries(Process):
    """Questions, each answered by this app's node. Their errors are those of `docs/protocol.md`."""

    async def request(self, op: str, /, body: Any = ABSENT, *, ct: str | None = None, timeout: float | None = None, **fields: Any) -> Any:
        """Any command of the protocol. Gives the answer's body if it has one, else a dictionary of its other members.

        What is done so is not declared again when the node was restarted.
        """
        header: Header = {"op": op, **fields}
        if timeout is not None:
            header.setdefault("timeout_ms", milliseconds(timeout))
        answer, raw = await self._session_request(header, body, ct, timeout)
        if raw:
            return body_value(answer, raw)[0]
        return {name: value for name, value in answer.items() if name not in ("ev", "id", "as")}

    async def _session_request(self, header: Header, body: Any, ct: str | None, timeout: float | None) -> tuple[Header, bytes]:
        return await self.client._session.request(header, body, ct, timeout=timeout)

    async def _list(self, op: str, **fields: Any) -> Any:
        return await self.request(op, **{name: value for name, value in fields.items() if value is not None})

    async def nodes(self, state: NodeState | Sequence[NodeState] | None = None) -> list[dict[str, Any]]:
        """This node (`self`), those connected and those merely known."""
        return list(await self._list("nodes", state=state if state is None or isinstance(state, str) else list(state)))

    async def ping(self, node: str, *, timeout: float | None = None) -> bool:
        """Whether a node answers. For an operator it is connected first, if it is known."""
        fields: Header = {} if timeout is None else {"timeout_ms": milliseconds(timeout)}
        return bool((await self.request("ping", node=node, **fields))["result"] == "pong")

    async def wait_for(
        self, *nodes: str, role: str | None = None, count: int | None = None, timeout: float | None = None
    ) -> list[str]:
        """Waits until nodes are connected: these, and `count` others, of a `role` if one is given. Raises `Timeout` with those missing."""
        header: Header = {"op": "wait_for"}
        fields = {"nodes": list(nodes) or None, "role": role, "count": count}
        header.update((name, value) for name, value in fields.items() if value is not None)
        if timeout is not None:
            header["timeout_ms"] = milliseconds(timeout)
        return list(body_value(*await self.client._session.request(header, timeout=timeout))[0] or ())

    async def whereis(self, name: str, *, node: str | None = None, scope: Scope = "local") -> str | None:
        """The pid of whoever has a name; None when nobody has."""
        fields: dict[str, Any] = {"name": name}
        if node is not None:
            fields["node"] = node
        if scope != "local":
            fields["scope"] = scope
        pid = (await self.request("whereis", **fields))["pid"]
        return None if pid is None else str(pid)

    async def registered(self, *, scope: Scope = "local", prefix: str | None = None) -> dict[str, str]:
        """The names of this node, or of the whole mesh, and their pids."""
        rows = await self._list("registered", scope=None if scope == "local" else scope, prefix=prefix)
        return {str(row["name"]): str(row["pid"]) for row in rows}

    async def info(self, to: Address | None = None, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """What is known of a process: this one's when `to` is left out. Raises `NoProc`."""
        return dict(await self._list("info", to=None if to is None else address(to), keys=None if keys is None else list(keys)))

    async def alive(self, to: Address) -> bool:
        """Whether an address leads to a living process, here or on another node. Raises `NoConnection` where nobody knows."""
        return bool((await self.request("alive", to=address(to)))["result"])

    async def list_processes(self, node: str | None = None) -> list[dict[str, Any]]:
        """The processes of this or of another node."""
        return list(await self._list("processes", node=node))

    async def members(self, group: str, *, local: bool = False) -> list[str]:
        """The pids in a group, as often as each has joined."""
        return list(await self._list("members", group=group, local=local or None))

    async def groups(self, prefix: str | None = None) -> list[str]:
        """The groups that have members."""
        return list(await self._list("groups", prefix=prefix))

    async def modules(self) -> list[dict[str, Any]]:
        """What is served, and where."""
        return list(await self._list("modules"))

    async def topics(self) -> list[dict[str, Any]]:
        """What somebody has subscribed to."""
        return list(await self._list("topics"))

    async def subscribers(self, topic: str) -> int:
        """How many subscriptions what is published to a topic reaches in the whole mesh."""
        header, _ = await self.client._session.request({"op": "subscribers", "topic": topic})
        return int(header["count"])

    async def presence(self, topic: str, *, key: str | None = None, prefix: str | None = None) -> list[Present]:
        """Who is present under a topic, in the order of their keys."""
        rows = await self._list("presence", topic=topic, key=key, prefix=prefix)
        return [Present.of(row) for row in rows]

    async def multi_call(
        self, name: str, body: Any = None, *, nodes: Sequence[str] | None = None, timeout: float = TIMEOUT
    ) -> list[Result]:
        """A `call` to a name on each of these nodes; on this one and every connected one when left out."""
        return await self._several("multi_call", {"name": name}, body, nodes, timeout)

    async def sbcast(
        self, name: str, body: Any = None, *, nodes: Sequence[str] | None = None, timeout: float = TIMEOUT
    ) -> list[Result]:
        """A cast to a name on each of these nodes that says who has got it: the pids."""
        return await self._several("sbcast", {"name": name}, body, nodes, timeout)

    async def rpc_all(
        self, nodes: Sequence[str], module: str, function: str, *args: Any, timeout: float = TIMEOUT
    ) -> list[Result]:
        """Calls a function on each of these nodes."""
        return await self._several("rpc", {"module": module, "function": function}, list(args), nodes, timeout)

    async def _several(self, op: str, header: Header, body: Any, nodes: Union[Sequence[str], None], timeout: float) -> list[Result]:
        header = {"op": op, **header, "timeout_ms": milliseconds(timeout)}
        if nodes is not None:
            header["nodes"] = list(nodes)
        return _results(body_value(*await self.client._session.request(header, body, timeout=timeout))[0])

    async def abcast(self, name: str, body: Any = None, *, nodes: Sequence[str] | None = None) -> None:
        """A cast to a name on each of these nodes. Whether anybody has it is not told."""
        header: Header = {"op": "abcast", "name": name}
        if nodes is not None:
            header["nodes"] = list(nodes)
        await self._request(header, body)
