"""The driver of the conformance kit: does with the client what lines of JSON say, and says what its app sees."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pillion
from pillion import NOREPLY, Call, Client, Event, Gap, GenServer, Process
from pillion.topics import Watch


class Boom(Exception):
    pass


def to_json(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): to_json(each) for key, each in value.items()}
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if isinstance(value, dict):
        if set(value) == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        return {key: from_json(each) for key, each in value.items()}
    return value


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(to_json(line), ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def event_json(event: Event) -> dict[str, Any]:
    shown = {key: value for key, value in event.header.items() if key not in ("pid", "as")}
    if event.counted:
        shown["body"] = event.body
        if event.ct is not None:
            shown["ct"] = event.ct
    elif "as" in event.header:
        shown[event.header["as"]] = event.body
    return shown


class Store(GenServer):
    """The articles' key-value store, and a little more."""

    label = ""

    def init(self, label: str) -> None:
        self.label = label
        self.state: dict[Any, Any] = {}
        self.held: list[Call] = []

    def handle_call(self, request: Any, call: Call) -> Any:
        match request:
            case ["get", key]:
                return self.state.get(key)
            case ["boom"]:
                raise Boom("it broke")
            case ["hold"]:
                self.held.append(call)
                return NOREPLY
            case ["stop"]:
                self.stop()
                return "ok"
        raise ValueError(f"unknown request {request!r}")

    async def handle_cast(self, request: Any) -> None:
        match request:
            case ["set", key, value]:
                self.state[key] = value
            case ["delete", key]:
                self.state.pop(key, None)
            case ["release", value]:
                held, self.held = self.held, []
                for call in held:
                    await call.reply(value)

    def handle_info(self, event: Event) -> None:
        if isinstance(event, pillion.Message):
            say(saw=self.label, info=event.body)
        elif isinstance(event, Gap):
            say(saw=self.label, info={"gap": event.lost})

    def terminate(self, reason: str) -> None:
        say(saw=self.label, terminate=reason)


class Driver:
    def __init__(self) -> None:
        self.app: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.made: dict[str, asyncio.Future[Any]] = {}
        self.calls: dict[str, Event] = {}
        self.holds: dict[str, asyncio.Future[Any]] = {}

    async def do(self, line: dict[str, Any]) -> None:
        label = line.get("as")
        loop = asyncio.get_running_loop()
        if label is not None and label not in self.made:
            self.made[label] = loop.create_future()
        try:
            action: Callable[[dict[str, Any]], Any] = getattr(self, "do_" + line["do"])
            value = await action(line)
        except pillion.PillionError as error:
            members = {
                "code": error.code, "message": error.message, "maybe_applied": error.maybe_applied, "class": error.error_class,
                "reason": error.reason, "stack": error.stack, "nodes": error.nodes,
            }  # fmt: skip
            say(saw=label, error={key: value for key, value in members.items() if value is not None})
        except asyncio.CancelledError:
            raise
        except Exception as error:
            say(saw=label, error={"code": "driver", "message": f"{type(error).__name__}: {error}", "maybe_applied": False})
        else:
            if label is not None:
                say(saw=label, value=value)

    def keep(self, line: dict[str, Any], made: Any) -> None:
        future = self.made[line["as"]]
        if not future.done():
            future.set_result(made)

    async def process(self, line: dict[str, Any]) -> Process:
        label = line.get("process")
        if label is None:
            return await asyncio.shield(self.app)
        process: Process = await asyncio.shield(self.made.setdefault(label, asyncio.get_running_loop().create_future()))
        return process

    async def of(self, label: str) -> Any:
        return await asyncio.shield(self.made.setdefault(label, asyncio.get_running_loop().create_future()))

    # The client

    async def do_connect(self, line: dict[str, Any]) -> Any:
        options: dict[str, Any] = {}
        if line.get("draining") == "callback":
            options["on_draining"] = lambda: say(saw="draining")
        if "grace_ms" in line:
            options["grace"] = line["grace_ms"] / 1000
        if "connect_timeout_ms" in line:
            options["timeout"] = line["connect_timeout_ms"] / 1000

        def failed(op: str, to: str | None, code: str, count: int) -> None:
            say(saw="failed", op=op, to=to, code=code, count=count)

        def report(report: pillion.Report) -> None:
            say(
                saw="report",
                resumed=report.resumed,
                lost_events=report.lost_events,
                lost_commands=report.lost_commands,
                unsure_commands=report.unsure_commands,
            )

        app = await pillion.connect(
            name=line.get("name"), on_drained=lambda: say(saw="drained"), on_failed=failed, on_report=report, **options
        )
        self.app.set_result(app)
        return {"node": app.node, "pid": app.pid}

    async def do_close(self, line: dict[str, Any]) -> None:
        await (await asyncio.shield(self.app)).close()

    async def do_request(self, line: dict[str, Any]) -> Any:
        app = await asyncio.shield(self.app)
        body = from_json(line["body"]) if "body" in line else pillion.ABSENT
        header = {"op": line["op"], **from_json(line.get("fields", {}))}
        answer, raw = await app._session_request(header, body, None, None)
        if raw:
            return pillion.frames.body_value(answer, raw)[0]
        return {name: value for name, value in answer.items() if name not in ("ev", "id", "as")}

    # Processes

    async def do_self(self, line: dict[str, Any]) -> str:
        return (await self.process(line)).pid

    async def do_spawn(self, line: dict[str, Any]) -> str:
        app = await asyncio.shield(self.app)
        options = {key: line[key] for key in ("name", "label", "trap_exit", "link", "monitor") if key in line}
        process = await app.spawn(**options)
        self.keep(line, process)
        return process.pid

    async def do_exit(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).exit(line.get("reason", "normal"))

    async def do_register(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).register(line["name"], scope=line.get("scope", "local"))

    async def do_unregister(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).unregister(line["name"], scope=line.get("scope", "local"))

    async def do_whereis(self, line: dict[str, Any]) -> str | None:
        return await (await asyncio.shield(self.app)).whereis(line["name"], scope=line.get("scope", "local"))

    async def do_send(self, line: dict[str, Any]) -> None:
        process = await self.process(line)
        await process.send(line["to"], from_json(line.get("body")), ct=line.get("ct"), confirm=line.get("confirm", False))

    async def do_cast(self, line: dict[str, Any]) -> None:
        process = await self.process(line)
        await process.cast(line["to"], from_json(line.get("body")), ct=line.get("ct"), confirm=line.get("confirm", False))

    async def do_call(self, line: dict[str, Any]) -> Any:
        process = await self.process(line)
        options = {"timeout": line["timeout_ms"] / 1000} if "timeout_ms" in line else {}
        return await process.call(line["to"], from_json(line.get("body")), ct=line.get("ct"), **options)

    async def do_stream(self, line: dict[str, Any]) -> Any:
        app = await asyncio.shield(self.app)
        options = {"timeout": line["timeout_ms"] / 1000} if "timeout_ms" in line else {}
        stream = app.stream(line["to"], from_json(line.get("body")), ct=line.get("ct"), **options)
        async for part in stream:
            say(saw=line["as"], part=part)
        return stream.value

    async def do_rpc(self, line: dict[str, Any]) -> Any:
        app = await asyncio.shield(self.app)
        options = {"timeout": line["timeout_ms"] / 1000} if "timeout_ms" in line else {}
        return await app.rpc(line["node"], line["module"], line["function"], *from_json(line.get("args", [])), **options)

    async def do_receive(self, line: dict[str, Any]) -> Any:
        process = await self.process(line)
        wanted: dict[str, Any] | None = line.get("match")

        def match(event: Event) -> bool:
            if wanted is None:
                return True
            shown = to_json(event_json(event))
            return all(key in shown and shown[key] == value for key, value in wanted.items())

        if "timeout_ms" in line:
            event = await process.receive(match, timeout=line["timeout_ms"] / 1000)
        else:
            event = await process.receive(match)
        if event is None:
            return None
        if "as" in line:
            self.calls[line["as"]] = event
        return event_json(event)

    async def do_reply(self, line: dict[str, Any]) -> None:
        call = self.calls[line["call"]]
        assert isinstance(call, Call)
        await call.reply(from_json(line.get("body")), more=line.get("more", False))

    async def do_raise(self, line: dict[str, Any]) -> None:
        call = self.calls[line["call"]]
        assert isinstance(call, Call)
        await call.fail(line.get("reason", ""), error_class=line.get("class"))

    async def do_link(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).link(line["to"])

    async def do_unlink(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).unlink(line["to"])

    async def do_monitor(self, line: dict[str, Any]) -> bool:
        self.keep(line, await (await self.process(line)).monitor(line["to"]))
        return True

    async def do_demonitor(self, line: dict[str, Any]) -> None:
        await (await self.of(line["ref"])).demonitor()

    # What serves

    async def do_gen_server(self, line: dict[str, Any]) -> str:
        app = await asyncio.shield(self.app)
        server = await app.start(Store, line["as"], name=line.get("name"))
        self.keep(line, server)
        return server.pid

    async def do_serve(self, line: dict[str, Any]) -> None:
        app = await asyncio.shield(self.app)
        label = line["as"]

        def add(a: Any, b: Any) -> Any:
            return a + b

        def fail() -> None:
            raise Boom("it broke")

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                say(saw=label, cancelled=True)
                raise

        async def hold(key: str) -> Any:
            return await asyncio.shield(self.holds.setdefault(key, asyncio.get_running_loop().create_future()))

        await app.serve(line["module"], {"add": add, "fail": fail, "wait": wait, "hold": hold})

    async def do_release(self, line: dict[str, Any]) -> None:
        held = self.holds.setdefault(line["key"], asyncio.get_running_loop().create_future())
        held.set_result(from_json(line.get("value")))

    async def do_unserve(self, line: dict[str, Any]) -> None:
        await (await asyncio.shield(self.app)).unserve(line["module"])

    # Topics, presence, groups, nodes

    async def watch(self, line: dict[str, Any], watch: Watch[Any], show: Callable[[Event], dict[str, Any]]) -> None:
        await watch
        self.keep(line, watch)
        if line["do"] == "subscribe":
            say(saw=line["as"], ready=True)
        async for event in watch.events():
            if isinstance(event, Gap):
                say(saw=line["as"], gap=event.lost, reason=event.reason)
            else:
                say(saw=line["as"], **show(event))

    async def do_subscribe(self, line: dict[str, Any]) -> None:
        app = await asyncio.shield(self.app)
        sub = app.subscribe(
            line["topic"], group=line.get("group"), metadata=from_json(line.get("metadata")), sync=line.get("sync", False)
        )
        keys = ("topic", "body", "from", "retained", "redelivered")
        await self.watch(line, sub, lambda event: {"message": {k: v for k, v in event_json(event).items() if k in keys}})

    async def do_unsubscribe(self, line: dict[str, Any]) -> None:
        await (await self.of(line["subscription"])).close()

    async def do_publish(self, line: dict[str, Any]) -> Any:
        app = await asyncio.shield(self.app)
        body = from_json(line["body"]) if "body" in line else pillion.ABSENT
        if line.get("report"):
            fields = {key: line[key] for key in ("topic", "retain") if key in line}
            return await app.request("publish", body, report=True, **fields)
        await app.publish(line["topic"], body, retain=line.get("retain", False), confirm=line.get("confirm", False))
        return None

    async def do_track(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).track(line["topic"], line["key"], from_json(line.get("metadata")))

    async def do_update_presence(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).update_presence(line["topic"], line["key"], from_json(line.get("metadata")))

    async def do_untrack(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).untrack(line.get("topic"), line.get("key"))

    async def do_watch_presence(self, line: dict[str, Any]) -> None:
        app = await asyncio.shield(self.app)

        def show(event: Event) -> dict[str, Any]:
            assert isinstance(event, pillion.PresenceChange)
            return {"joins": [each.key for each in event.joins], "leaves": [each.key for each in event.leaves]}

        await self.watch(line, app.watch_presence(line["topic"]), show)

    async def do_join(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).join(line["group"])

    async def do_leave(self, line: dict[str, Any]) -> None:
        await (await self.process(line)).leave(line["group"])

    async def do_members(self, line: dict[str, Any]) -> list[str]:
        return await (await asyncio.shield(self.app)).members(line["group"])

    async def do_monitor_nodes(self, line: dict[str, Any]) -> None:
        app = await asyncio.shield(self.app)
        await self.watch(line, app.watch_nodes(), lambda event: {"ev": event.name, "node": event.header.get("node")})


async def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    loop = asyncio.get_running_loop()
    driver = Driver()
    running: set[asyncio.Task[None]] = set()
    ended = asyncio.Event()

    def start(line: str) -> None:
        task = loop.create_task(driver.do(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)

    def read() -> None:
        # A thread of its own: standard input may be a file, which no event loop waits for.
        for line in sys.stdin:
            if line.strip():
                loop.call_soon_threadsafe(start, line)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()
    sys.stdout.flush()
    os._exit(0)


asyncio.run(main())
