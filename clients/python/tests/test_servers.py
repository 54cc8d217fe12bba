"""GenServers, served functions and tasks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pillion
from pillion import NOREPLY, Call, Event, GenServer, Process
from tests.support import NodeTest, soon, until


class Boom(Exception):
    pass


class Store(GenServer):
    """The articles' key-value store, and a little more."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.held: list[Call] = []
        self.infos: asyncio.Queue[Any] = asyncio.Queue()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.threads_seen: set[int] = set()

    def init(self, state: dict[str, Any] | None = None) -> None:
        self.state = dict(state or {})

    def handle_call(self, request: Any, call: Call) -> Any:
        self.threads_seen.add(threading.get_ident())
        match request:
            case ["get", key]:
                return self.state.get(key)
            case ["slow", value]:
                return self._slow(value)
            case ["hold"]:
                self.held.append(call)
                return NOREPLY
            case ["boom"]:
                raise Boom("it broke")
            case ["stop"]:
                self.stop()
                return "ok"
            case ["unspeakable"]:
                return object()

    async def _slow(self, value: Any) -> Any:
        await asyncio.sleep(0.01)
        return value

    async def handle_cast(self, request: Any) -> None:
        match request:
            case ["set", key, value]:
                self.state[key] = value
            case ["delete", key]:
                self.state.pop(key, None)
            case ["release", value]:
                for call in self.held:
                    await call.reply(value)

    def handle_info(self, event: Event) -> None:
        self.infos.put_nowait(event.body)

    def terminate(self, reason: str) -> None:
        self.ended.put_nowait(reason)


class Servers(NodeTest):
    async def test_b8_to_b12_the_key_value_store_of_the_article_works_from_another_node_too(self) -> None:
        one, two = await self.pair()
        store = await two.start(Store, {"was": 1}, name="primary_store")
        for app, to in ((two, "primary_store"), (one, f"primary_store@{two.node}"), (two, store)):
            await app.cast(to, ["set", "foo", "bar"])
            self.assertEqual(await app.call(to, ["get", "foo"]), "bar")
            await app.cast(to, ["delete", "foo"])
            self.assertIsNone(await app.call(to, ["get", "foo"]))
            self.assertEqual(await app.call(to, ["get", "was"]), 1)
        with self.assertRaises(pillion.NoProc):
            await two.call("primary_key_value_store", ["get", "foo"])

    async def test_one_event_is_handled_at_a_time_also_where_a_callback_waits(self) -> None:
        app = await self.app(self.mesh.node("a"))
        store = await app.start(Store)
        slow = [asyncio.ensure_future(app.call(store, ["slow", n])) for n in range(5)]
        await asyncio.sleep(0)
        await app.cast(store, ["set", "after", "all"])
        self.assertEqual(await app.call(store, ["get", "after"]), "all")
        self.assertTrue(all(each.done() for each in slow))
        self.assertEqual([each.result() for each in slow], list(range(5)))

    async def test_a_reply_may_come_later(self) -> None:
        app = await self.app(self.mesh.node("a"))
        store = await app.start(Store)
        waiting = asyncio.ensure_future(app.call(store, ["hold"]))
        self.assertIsNone(await app.call(store, ["get", "x"]))
        await app.cast(store, ["release", "at last"])
        self.assertEqual(await soon(waiting), "at last")

    async def test_an_error_in_a_call_is_raised_to_the_caller_and_ends_the_server(self) -> None:
        app = await self.app(self.mesh.node("a"))
        store = await app.start(Store, name="store")
        monitor = await app.monitor(store)
        with self.assertLogs("pillion", "ERROR"), self.assertRaises(pillion.RemoteError) as raised:
            await app.call("store", ["boom"])
        self.assertEqual((raised.exception.error_class, raised.exception.reason), ("Boom", "it broke"))
        self.assertEqual(await soon(store.wait()), "Boom: it broke")
        self.assertEqual(await soon(store.ended.get()), "Boom: it broke")
        down = await soon(app.receive(lambda event: getattr(event, "ref", None) == monitor.ref))
        self.assertEqual(down.reason, "Boom: it broke")
        self.assertIsNone(await app.whereis("store"))

    async def test_a_reply_that_is_no_cbor_is_an_error_that_the_caller_hears(self) -> None:
        app = await self.app(self.mesh.node("a"))
        store = await app.start(Store)
        with self.assertLogs("pillion", "ERROR"), self.assertRaises(pillion.RemoteError) as raised:
            await app.call(store, ["unspeakable"])
        self.assertEqual(raised.exception.error_class, "BadArg")

    async def test_a_server_that_stops_replies_first_and_exits_normal(self) -> None:
        app = await self.app(self.mesh.node("a"))
        store = await app.start(Store)
        self.assertEqual(await app.call(store, ["stop"]), "ok")
        self.assertEqual(await soon(store.wait()), "normal")
        self.assertEqual(await soon(store.ended.get()), "normal")

    async def test_messages_come_to_handle_info_and_a_kill_to_terminate(self) -> None:
        app = await self.app(self.mesh.node("a"))
        store = await app.start(Store)
        await app.send(store, {"any": "message"})
        self.assertEqual(await soon(store.infos.get()), {"any": "message"})
        await app.kill(store)
        self.assertEqual(await soon(store.ended.get()), "killed")

    async def test_an_error_in_init_is_raised_and_leaves_no_process(self) -> None:
        app = await self.app(self.mesh.node("a"))

        class Broken(GenServer):
            def init(self) -> None:
                raise Boom("no state")

        with self.assertRaises(Boom):
            await app.start(Broken, name="broken")
        self.assertIsNone(await app.whereis("broken"))

    async def test_closing_the_app_terminates_its_servers(self) -> None:
        app = await self.app(self.mesh.node("a"))
        store = await app.start(Store)
        await app.close()
        self.assertEqual(store.ended.get_nowait(), "shutdown")
        with self.assertRaises(pillion.Closed):
            await app.call("anybody", 1)

    async def test_with_threads_plain_callbacks_run_in_one_thread_of_their_own(self) -> None:
        app = await self.app(self.mesh.node("a"))
        store = await app.start(Store, threads=True)
        for _ in range(3):
            self.assertIsNone(await app.call(store, ["get", "x"]))
        self.assertEqual(len(store.threads_seen), 1)
        self.assertNotIn(threading.get_ident(), store.threads_seen)


class Functions(NodeTest):
    async def test_functions_are_served_by_decorators_and_called_from_another_node(self) -> None:
        one, two = await self.pair()
        cancelled = asyncio.Event()

        @two.serve("stock")
        class Stock:
            def __init__(self) -> None:
                self._count = 0

            def add(self, a: int, b: int) -> int:
                self._count += 1
                return a + b

            async def wait(self) -> None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            def fail(self) -> None:
                raise Boom("it broke")

        async def served() -> bool:
            return any(row["module"] == "stock" for row in await one.modules())

        await until(served)
        self.assertEqual(await one.rpc(two.node, "stock", "add", 1, 2), 3)
        self.assertEqual(await one.rpc("any", "stock", "add", 3, 4), 7)
        with self.assertLogs("pillion", "WARNING"), self.assertRaises(pillion.RemoteError) as raised:
            await one.rpc(two.node, "stock", "fail")
        self.assertEqual((raised.exception.error_class, raised.exception.reason), ("Boom", "it broke"))
        with self.assertLogs("pillion", "WARNING"), self.assertRaises(pillion.RemoteError) as wrong:
            await one.rpc(two.node, "stock", "add", 1)
        self.assertEqual(wrong.exception.error_class, "TypeError")
        for name in ("gone", "_count"):
            with self.assertRaises(pillion.Undef) as undef:
                await one.rpc(two.node, "stock", name)
            self.assertFalse(undef.exception.maybe_applied)
        with self.assertRaises(pillion.Timeout):
            await one.rpc(two.node, "stock", "wait", timeout=0.05)
        await soon(cancelled.wait())

    async def test_functions_may_be_served_before_connecting_and_no_more_after(self) -> None:
        node = self.mesh.node("a")
        app = pillion.connect(node.socket, timeout=60)

        @app.serve("math")
        async def double(x: int) -> int:
            return 2 * x

        @app.serve("math")
        def half(x: int) -> float:
            return x / 2

        async with app:
            self.assertEqual(await app.rpc(app.node, "math", "double", 4), 8)
            self.assertEqual(await app.rpc(app.node, "math", "half", 4), 2.0)
            await app.unserve("math")
            with self.assertRaises(pillion.Undef):
                await app.rpc(app.node, "math", "half", 4)

    async def test_calls_run_side_by_side(self) -> None:
        app = await self.app(self.mesh.node("a"))
        released = asyncio.Event()

        async def hold(n: int) -> int:
            await released.wait()
            return n

        await app.serve("held", {"hold": hold, "release": released.set})
        calls = [asyncio.ensure_future(app.rpc(app.node, "held", "hold", n)) for n in range(200)]
        await app.rpc(app.node, "held", "release")
        self.assertEqual(await soon(asyncio.gather(*calls)), list(range(200)))


class Tasks(NodeTest):
    async def test_a_task_gives_its_result_from_a_process_of_its_own(self) -> None:
        app = await self.app(self.mesh.node("a"))

        async def work(me: Process, n: int) -> list[Any]:
            return [me.pid, n]

        task = app.task(work, 7)
        process = await task.started()
        self.assertEqual(await soon(task), [process.pid, 7])
        self.assertEqual(process.exit_reason, "normal")

    async def test_a_task_that_fails_raises_where_it_is_awaited_and_spares_who_waits(self) -> None:
        app = await self.app(self.mesh.node("a"))
        before = app.pid

        def work(_: Process) -> None:
            raise Boom("it broke")

        task = app.task(work)
        with self.assertRaises(Boom):
            await soon(task)
        self.assertEqual((await task.started()).exit_reason, "Boom: it broke")
        self.assertTrue(await app.alive(app))
        self.assertEqual(app.pid, before)

    async def test_a_task_that_is_waited_for_in_vain_runs_on_until_it_is_cancelled(self) -> None:
        app = await self.app(self.mesh.node("a"))
        ended = asyncio.Event()

        async def work(_: Process) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        task = app.task(work)
        with self.assertRaises(pillion.Timeout):
            await task.wait(0.05)
        self.assertFalse(task.done())
        task.cancel()
        with self.assertRaises(pillion.Exited):
            await soon(task)
        self.assertTrue(ended.is_set())

    async def test_b7_a_linked_parent_that_traps_hears_of_a_killed_task(self) -> None:
        app = await self.app(self.mesh.node("a"))
        await app.flag(trap_exit=True)

        async def loop(me: Process) -> None:
            async for _ in me:
                pass

        task = app.task(loop)
        process = await task.started()
        await app.kill(process)
        event = await soon(app.receive())
        self.assertEqual((event.sender, event.reason), (process.pid, "killed"))
        with self.assertRaises(pillion.Exited) as raised:
            await soon(task)
        self.assertEqual(raised.exception.reason, "killed")
