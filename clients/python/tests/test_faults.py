"""What goes wrong in the app itself, and what the others of it notice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import threading
import unittest
import unittest.mock
from collections.abc import AsyncIterator
from typing import Any

import pillion
from pillion import Call, GenServer, sync
from pillion.events import Message
from pillion.mailbox import TELL_AT, Mailbox
from pillion.stream import PARTS_BYTES_MAX
from tests.support import SECONDS, Mesh, NodeTest, needs_node, soon


class Slow(GenServer):
    """Waits in its callback until it is let on."""

    def init(self) -> None:
        self.entered, self.on, self.heard = asyncio.Event(), asyncio.Event(), list[str]()

    async def handle_call(self, request: Any, call: Call) -> Any:
        self.entered.set()
        if request == "close":
            await self.app.close()
        else:
            await self.on.wait()
        self.heard.append("done")
        return request

    async def terminate(self, reason: str) -> None:
        await asyncio.sleep(0)
        self.heard.append(reason)


class Servers(NodeTest):
    async def test_closing_lets_a_callback_finish_and_then_terminates_once(self) -> None:
        app = await self.app(self.mesh.node("a"))
        slow = await app.start(Slow)
        calling = asyncio.create_task(app.call(slow, "x", timeout=SECONDS))
        await soon(slow.entered.wait())
        with unittest.mock.patch("pillion.gen_server.CLOSE_SECONDS", SECONDS):
            closing = asyncio.create_task(app.close())
            for _ in range(10):
                await asyncio.sleep(0)
            self.assertEqual(slow.heard, [])
            slow.on.set()
            await soon(closing)
        self.assertEqual(await soon(calling), "x")
        self.assertEqual(slow.heard, ["done", "shutdown"])
        self.assertEqual(await soon(slow.wait()), "shutdown")

    async def test_a_server_outlives_a_reply_that_cannot_be_told(self) -> None:
        node = self.mesh.node("a")
        app = await self.app(node)
        slow = await app.start(Slow, name="slow")
        calling = asyncio.create_task(app.call(slow, "x", timeout=SECONDS))
        await soon(slow.entered.wait())
        with unittest.mock.patch("pillion.outgoing.WAIT_SECONDS", 0.05):
            node.kill()
            while app.is_connected:
                await asyncio.sleep(0)
            with self.assertLogs("pillion", "WARNING") as logs:
                slow.on.set()
                while not any("cannot hear its reply" in line for line in logs.output):
                    await asyncio.sleep(0.01)
        node.start()
        with self.assertRaises(pillion.PillionError):
            await soon(calling)
        self.assertEqual(await soon(app.call("slow", "again", timeout=SECONDS)), "again")
        self.assertEqual(slow.heard, ["done", "done"])

    async def test_a_callback_may_close_its_app(self) -> None:
        app = await self.app(self.mesh.node("a"))
        slow = await app.start(Slow)
        await app.cast(app.pid, "unread")
        with self.assertRaises(pillion.PillionError):
            await soon(app.call(slow, "close", timeout=SECONDS))
        while "done" not in slow.heard:
            await asyncio.sleep(0)
        self.assertEqual(slow.heard, ["shutdown", "done"])

    async def test_a_reply_that_is_too_large_is_heard_by_its_caller(self) -> None:
        class Big(GenServer):
            def handle_call(self, request: Any, call: Call) -> Any:
                return bytes(request)

        app = await self.app(self.mesh.node("a"))
        big = await app.start(Big)
        self.assertEqual(len(await app.call(big, 1024 * 1024 - 64, timeout=SECONDS)), 1024 * 1024 - 64)
        with self.assertRaises(pillion.RemoteError) as raised:
            await app.call(big, 1024 * 1024 + 1, timeout=SECONDS)
        self.assertEqual(raised.exception.error_class, "TooLarge")
        self.assertIn("body-max", str(raised.exception.reason))


class Streams(NodeTest):
    async def start_stream(self) -> tuple[pillion.Client, Any, list[Message]]:
        """A stream, by which parts come that its callee never sent, and the wait of the callee for the first word."""
        app = await self.app(self.mesh.node("a"))
        callee = await app.spawn()
        stream = app.stream(callee, "go", timeout=SECONDS)
        event = await callee.receive(timeout=SECONDS)
        assert isinstance(event, Call)
        return app, stream, [event]  # type: ignore[list-item]

    async def test_parts_that_nobody_takes_are_bounded(self) -> None:
        app, stream, (call,) = await self.start_stream()
        part = b"x" * (1024 * 1024 - 64)
        sent = 0
        while sent <= PARTS_BYTES_MAX + 2 * len(part):
            await soon(call.reply(part, more=True))  # type: ignore[attr-defined]
            sent += len(part)
        got = 0
        with self.assertRaises(pillion.Overloaded):
            async for each in stream:
                got += len(each)
        self.assertGreater(got, PARTS_BYTES_MAX - 2 * len(part))
        self.assertLessEqual(got, PARTS_BYTES_MAX)

    async def test_a_stream_that_is_taken_may_be_longer_than_what_may_wait(self) -> None:
        _, stream, (call,) = await self.start_stream()
        part = b"x" * (1024 * 1024 - 64)
        for _ in range(PARTS_BYTES_MAX // len(part) + 3):
            await soon(call.reply(part, more=True))  # type: ignore[attr-defined]
            self.assertEqual(len(await soon(stream.__anext__())), len(part))
        await call.reply("end")  # type: ignore[attr-defined]
        self.assertEqual([each async for each in stream], [])
        self.assertEqual(stream.value, "end")

    async def test_a_stream_that_is_closed_or_forgotten_keeps_nothing(self) -> None:
        app, stream, (call,) = await self.start_stream()
        await soon(call.reply("part", more=True))  # type: ignore[attr-defined]
        async with stream:
            self.assertEqual(await soon(stream.__anext__()), "part")
            await soon(call.reply("untaken", more=True))  # type: ignore[attr-defined]
        self.assertEqual([each async for each in stream], [])
        again = app.stream(call.process, "go", timeout=SECONDS)
        second = await call.process.receive(timeout=SECONDS)
        parts = again._parts
        del again
        assert isinstance(second, Call)
        await soon(second.reply("nobody", more=True))
        self.assertTrue(parts.queue.empty())


class Receivers(unittest.IsolatedAsyncioTestCase):
    class Told:
        def __init__(self) -> None:
            self.told = 0

        def _more(self, n: int) -> None:
            self.told += n

    def mailbox(self) -> tuple[Mailbox, Receivers.Told]:
        told = self.Told()
        return Mailbox(told), told  # type: ignore[arg-type]

    @staticmethod
    def message(n: int) -> Message:
        return Message({"ev": "message", "from": "<1>"}, n, None, None)  # type: ignore[arg-type]

    async def test_an_event_whose_receiver_was_cancelled_goes_to_the_next_who_waits(self) -> None:
        mailbox, _ = self.mailbox()
        first = asyncio.create_task(mailbox.receive())
        second = asyncio.create_task(mailbox.receive())
        await asyncio.sleep(0)
        mailbox.put(self.message(1))
        first.cancel()
        event = await asyncio.wait_for(second, SECONDS)
        assert event is not None
        self.assertEqual(event.body, 1)

    async def test_what_is_told_is_what_was_taken_even_when_receivers_are_cancelled(self) -> None:
        mailbox, process = self.mailbox()
        receiving = [asyncio.create_task(mailbox.receive()) for _ in range(TELL_AT)]
        await asyncio.sleep(0)
        for n in range(TELL_AT):
            mailbox.put(self.message(n))
        for each in receiving:
            each.cancel()
        await asyncio.wait(receiving)
        for _ in range(TELL_AT):
            self.assertIsNotNone(mailbox.take())
        mailbox.tell()
        self.assertEqual(process.told, TELL_AT)


async def first_of(watch: pillion.Subscription) -> AsyncIterator[Message]:
    """The first that comes, if one does."""
    async for each in watch:
        yield each
        return


class Connecting(NodeTest):
    async def test_a_connect_that_is_cancelled_leaves_no_connection(self) -> None:
        node = self.mesh.node("a")
        await self.app(node)
        node.signal(signal.SIGSTOP)
        self.addCleanup(node.signal, signal.SIGCONT)
        late = pillion.connect(node.socket, timeout=SECONDS)
        connecting = asyncio.ensure_future(late._start())
        while late._session._link is None:
            await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait([connecting])
        self.assertIsNone(late._session._link)

    async def test_a_path_that_cannot_be_a_nodes_is_told_with_what_to_do(self) -> None:
        directory = tempfile.mkdtemp(prefix="pillion-py-")
        self.addCleanup(os.rmdir, directory)
        for path, what in ((directory, "is a directory"), (__file__, "is no socket"), ("/tmp/" + "x" * 200, "shorter one by `--dir`")):
            with self.assertRaises(pillion.Unreachable) as raised:
                await pillion.connect(path, timeout=0)
            self.assertIn(what, str(raised.exception))

    async def test_a_subscription_may_be_opened_again(self) -> None:
        app = await self.app(self.mesh.node("a"))
        news = app.subscribe("news")
        for n in range(2):
            async with news:
                await app.publish("news", n)
                self.assertEqual([message.body async for message in first_of(news)], [n])
            self.assertEqual([each async for each in news], [])

    async def test_drained_ends_when_the_app_is_closed(self) -> None:
        app = await self.app(self.mesh.node("a"))
        drained = asyncio.create_task(app.drained())
        await asyncio.sleep(0)
        await app.close()
        with self.assertRaises(pillion.Closed):
            await soon(drained)


@needs_node
class Threads(unittest.TestCase):
    def setUp(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        self.node = mesh.node("a")
        self.app = sync.connect(self.node.socket, timeout=SECONDS)
        self.addCleanup(self.app.close)

    def test_what_would_end_a_loop_is_an_error_like_any_other(self) -> None:
        class Odd(GenServer):
            def handle_call(self, request: Any, call: Call) -> Any:
                return odd(request)

        def odd(request: str) -> Any:
            if request == "exit":
                sys.exit(3)
            return next(iter([]))

        self.app.serve("odd", {"odd": odd})
        for request, what in (("exit", "SystemExit: 3"), ("stop", "StopIteration")):
            server = self.app.start(Odd)
            with self.assertRaises(pillion.RemoteError) as raised:
                self.app.call(server, request, timeout=SECONDS)
            self.assertIn(what, str(raised.exception.reason))
            with self.assertRaises(pillion.RemoteError) as raised:
                self.app.rpc("any", "odd", "odd", request, timeout=SECONDS)
            self.assertIn(what, str(raised.exception.reason))
            task = self.app.task(lambda me: odd(request))
            with self.assertRaisesRegex(RuntimeError, what):
                task.result(SECONDS)
        self.assertTrue(self.app.nodes())

    def test_functions_that_wait_for_functions_do_not_hold_them(self) -> None:
        many = 40
        together = threading.Barrier(many)

        def outer() -> Any:
            together.wait(SECONDS)
            return self.app.rpc("any", "deep", "inner", timeout=SECONDS)

        self.app.serve("deep", {"outer": outer, "inner": lambda: 1})
        tasks = [self.app.task(lambda me: me.rpc("any", "deep", "outer", timeout=SECONDS)) for _ in range(many)]
        self.assertEqual([task.result(SECONDS) for task in tasks], [1] * many)

    def test_who_waits_in_another_thread_hears_that_it_is_closed(self) -> None:
        heard: list[BaseException] = []

        def wait(work: Any) -> None:
            try:
                work()
            except BaseException as error:
                heard.append(error)

        waiting = [threading.Thread(target=wait, args=(work,)) for work in (self.app.receive, self.app.drained)]
        for each in waiting:
            each.start()
        self.app.whereis("nobody")
        with self.app.subscribe("news"):
            self.app.close()
        for each in waiting:
            each.join(SECONDS)
        self.assertEqual([type(error) for error in heard], [pillion.Closed] * 2)

    def test_an_interrupted_wait_loses_no_event(self) -> None:
        class Interrupted(BaseException):
            pass

        class Impatient:
            """Stands for Ctrl-C in the moment in which the result is there."""

            def __init__(self, future: Any) -> None:
                self._future = future

            def result(self) -> Any:
                self._future.result()
                raise Interrupted

            def cancel(self) -> bool:
                return bool(self._future.cancel())

        real = asyncio.run_coroutine_threadsafe
        self.app.send(self.app.pid, "kept")
        with unittest.mock.patch("asyncio.run_coroutine_threadsafe", lambda *args: Impatient(real(*args))):
            with self.assertRaises(Interrupted):
                self.app.receive(timeout=SECONDS)
            with self.assertRaises(Interrupted):
                next(iter(self.app))
        event = self.app.receive(timeout=SECONDS)
        assert event is not None
        self.assertEqual(event.body, "kept")

    def test_a_gap_is_told_in_a_thread(self) -> None:
        told: list[Any] = []
        with self.app.subscribe("news", on_gap=lambda gap: told.append((gap.reason, self.app.whereis("nobody")))) as news:
            self.node.kill()
            self.node.start()
            self.app.publish("news", 1)
            for _ in news:
                break
            for _ in range(SECONDS * 100):
                if told:
                    break
                threading.Event().wait(0.01)
        self.assertEqual(told, [("restarted", None)])


@needs_node
@unittest.skipUnless(hasattr(os, "fork"), "there is no fork")
class Forks(unittest.TestCase):
    def in_child(self, work: Any) -> str:
        """What `work` gives in a forked child."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            try:
                os.write(writer, str(work()).encode())
            except BaseException as error:
                os.write(writer, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as said:
            text = said.read().decode()
        os.waitpid(child, 0)
        return text

    def test_a_child_has_nothing_of_its_parents_client(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        node = mesh.node("a")
        app = sync.connect(node.socket, timeout=SECONDS)
        self.addCleanup(app.close)
        self.assertIn("connect anew in the child", self.in_child(lambda: app.send(app.pid, "from the child")))
        self.assertEqual(self.in_child(app.close), "None")

        def anew() -> Any:
            with sync.connect(node.socket, timeout=SECONDS) as own:
                return own.alive(app.pid)

        self.assertEqual(self.in_child(anew), "True")
        app.send(app.pid, "from the parent")
        event = app.receive(timeout=SECONDS)
        assert event is not None
        self.assertEqual(event.body, "from the parent")

    def test_a_child_does_not_keep_its_parents_session(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        node = mesh.node("a")
        watching = sync.connect(node.socket, timeout=SECONDS)
        self.addCleanup(watching.close)
        reader, writer = os.pipe()
        parent = os.fork()
        if parent == 0:
            signal.alarm(SECONDS)
            app = sync.connect(node.socket, timeout=SECONDS)
            app.register("parent")
            if os.fork() == 0:
                os.read(reader, 1)
                os._exit(0)
            os._exit(0)  # As if it were killed: it says nothing.
        os.waitpid(parent, 0)
        watching.monitor("parent")
        down = watching.receive(timeout=SECONDS)
        os.write(writer, b"x")
        self.assertIsInstance(down, pillion.Down)
        os.close(reader)
        os.close(writer)


if __name__ == "__main__":
    unittest.main()
