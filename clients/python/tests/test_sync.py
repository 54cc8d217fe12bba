"""The same without an event loop."""

from __future__ import annotations

import threading
import unittest
from typing import Any

import pillion
from pillion import NOREPLY, Call, Event, GenServer, Message, sync
from tests.support import SECONDS, Mesh, needs_node


class Store(GenServer):
    def init(self, app: sync.Client) -> None:
        self.client = app
        self.state: dict[str, Any] = {}
        self.held: list[Call] = []

    def handle_call(self, request: Any, call: Call) -> Any:
        match request:
            case ["get", key]:
                return self.state.get(key)
            case ["hold"]:
                self.held.append(call)
                return NOREPLY
            case ["ask", name]:
                return self.client.whereis(name)
            case ["stop"]:
                self.stop()
                return "ok"

    def handle_cast(self, request: Any) -> None:
        match request:
            case ["set", key, value]:
                self.state[key] = value
            case ["release", value]:
                for call in self.held:
                    call.reply(value)  # type: ignore[unused-coroutine]


@needs_node
class WithoutALoop(unittest.TestCase):
    def setUp(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        self.app = sync.connect(mesh.node("a").socket, timeout=SECONDS)
        self.addCleanup(self.app.close)

    def test_messages_calls_and_ends_wait_for_their_result(self) -> None:
        app = self.app
        with app.spawn(name="echo") as echo:

            def answer() -> None:
                for event in echo:
                    match event:
                        case sync.Call(["parts"]):
                            event.reply(1, more=True)
                            event.reply(2)
                        case sync.Call("fail"):
                            event.fail("it broke", error_class="Boom")
                        case sync.Call(body):
                            event.reply(body)

            answering = threading.Thread(target=answer)
            answering.start()
            self.assertEqual(app.call("echo", [1, "two"]), [1, "two"])
            self.assertEqual(app.call(echo, "x", timeout=SECONDS), "x")
            with self.assertRaises(pillion.RemoteError):
                app.call("echo", "fail")
            stream = app.stream("echo", ["parts"])
            self.assertEqual((list(stream), stream.value), ([1], 2))
            monitor = app.monitor(echo)
        answering.join(SECONDS)
        down = app.receive(timeout=SECONDS)
        assert isinstance(down, pillion.Down)
        self.assertEqual((down.ref, down.reason), (monitor.ref, "normal"))
        app.send(app, "later")
        app.send(app, "first")
        first = app.receive(lambda event: event.body == "first", timeout=SECONDS)
        self.assertIsInstance(first, Message)
        self.assertEqual([event.body for event in app.flush()], ["later"])
        self.assertIsNone(app.receive(timeout=0.01))

    def test_a_server_may_wait_in_its_callbacks_and_reply_later(self) -> None:
        app = self.app
        store = app.start(Store, app, name="store")
        app.cast("store", ["set", "a", 1])
        self.assertEqual(app.call("store", ["get", "a"]), 1)
        self.assertEqual(app.call(store, ["ask", "store"]), store.pid)
        got: list[Any] = []
        waiting = threading.Thread(target=lambda: got.append(app.call("store", ["hold"], timeout=SECONDS)))
        waiting.start()
        while not store.held:
            app.call("store", ["get", "a"])
        app.cast("store", ["release", "at last"])
        waiting.join(SECONDS)
        self.assertEqual(got, ["at last"])
        self.assertEqual(app.call("store", ["stop"]), "ok")

    def test_functions_are_served_from_threads(self) -> None:
        app = self.app
        both = threading.Barrier(2)

        @app.serve("math")
        class Maths:
            def together(self) -> int:
                both.wait(SECONDS)
                return threading.get_ident()

        task = app.task(lambda me: me.rpc(app.node, "math", "together"))
        one = app.rpc(app.node, "math", "together", timeout=SECONDS)
        self.assertNotEqual(one, task.result(SECONDS))

    def test_topics_and_presence_are_plain_iterators(self) -> None:
        app = self.app
        with app.subscribe("shop.*") as shop, app.watch_presence("room.1") as room:
            app.publish("shop.tea", 1)
            message = next(iter(shop))
            self.assertEqual((message.topic, message.body), ("shop.tea", 1))
            app.track("room.1", "ann")
            for change in room:
                if change.joins:
                    break
            self.assertEqual([each.key for each in room.present.values()], ["ann"])

    def test_a_task_gives_its_result_or_its_error(self) -> None:
        app = self.app

        def work(me: sync.Process, n: int) -> Any:
            event: Event = me.receive()
            if n == 0:
                raise ValueError("nothing")
            return [me.pid, event.body, n]

        task = app.task(work, 3)
        app.send(task.process, "go")
        self.assertEqual(task.result(SECONDS), [task.process.pid, "go", 3])
        failing = app.task(work, 0)
        app.send(failing.process, "go")
        with self.assertRaises(ValueError):
            failing.result(SECONDS)

    def test_after_close_everything_says_so(self) -> None:
        self.app.close()
        with self.assertRaises(pillion.Closed):
            self.app.send("anybody", 1)
        self.app.close()
