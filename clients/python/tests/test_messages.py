"""Messages, calls, names, ends: on one node and between two."""

from __future__ import annotations

import asyncio
import signal

import pillion
from pillion import Call, Cast, Down, Exit, Message
from tests.support import NodeTest, soon, until


class Messages(NodeTest):
    async def test_messages_arrive_in_the_order_in_which_they_were_sent(self) -> None:
        app = await self.app(self.mesh.node("a"))
        for number in range(1000):
            await app.send(app.pid, number)
        got = [(await soon(app.receive())).body for _ in range(1000)]
        self.assertEqual(got, list(range(1000)))

    async def test_a_receive_with_a_predicate_leaves_the_others_where_they_are(self) -> None:
        app = await self.app(self.mesh.node("a"))
        for body in ("a", "b", "wanted", "c"):
            await app.send(app.pid, body)
        wanted = await soon(app.receive(lambda event: event.body == "wanted"))
        self.assertEqual(wanted.body, "wanted")
        self.assertEqual([(await soon(app.receive())).body for _ in range(3)], ["a", "b", "c"])
        self.assertIsNone(await app.receive(timeout=0))

    async def test_a_receive_that_is_cancelled_loses_nothing(self) -> None:
        app = await self.app(self.mesh.node("a"))
        for _ in range(20):
            waiting = asyncio.ensure_future(app.receive())
            await asyncio.sleep(0)
            await app.send(app.pid, "kept")
            await app.whereis("nobody")
            waiting.cancel()
            try:
                event = await waiting
            except asyncio.CancelledError:
                event = await soon(app.receive())
            self.assertEqual(event.body, "kept")

    async def test_a_mailbox_takes_more_than_its_window_without_being_read_and_loses_nothing(self) -> None:
        app = await self.app(self.mesh.node("a"))
        other = await app.spawn()
        for number in range(2000):
            await app.send(other, number)
        await app.whereis("nobody")
        self.assertLessEqual(len(other.mailbox), 256)
        self.assertEqual([(await soon(other.receive())).body for _ in range(2000)], list(range(2000)))

    async def test_values_of_every_kind_arrive_as_they_were(self) -> None:
        app = await self.app(self.mesh.node("a"))
        for value in (None, True, 0, -1, 2**70, 1.5, "é", b"\x00\xff", [1, [2]], {"a": {"b": [None]}}, {1: 2}, "x" * 300_000):
            await app.send(app.pid, value)
            self.assertEqual((await soon(app.receive())).body, value)

    async def test_bytes_with_a_content_type_arrive_with_it(self) -> None:
        app = await self.app(self.mesh.node("a"))
        await app.send(app.pid, b"hello", ct="text/plain")
        event = await soon(app.receive())
        self.assertEqual((event.body, event.ct), (b"hello", "text/plain"))
        with self.assertRaises(pillion.BadArg):
            await app.send(app.pid, "no bytes", ct="text/plain")

    async def test_what_fails_and_nobody_waits_for_is_heard_by_the_callback(self) -> None:
        heard: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
        app = await self.app(self.mesh.node("a"), on_failed=lambda *what: heard.put_nowait(what))
        await app.send("nobody", 1)
        self.assertEqual(await soon(heard.get()), ("send", "nobody", "noproc", 1))
        with self.assertRaises(pillion.NoProc) as raised:
            await app.send("nobody", 1, confirm=True)
        self.assertFalse(raised.exception.maybe_applied)

    async def test_a_message_sent_later_comes_later_or_not_at_all(self) -> None:
        app = await self.app(self.mesh.node("a"))
        kept = await app.send_after(0.01, app, "tick")
        never = await app.send_after(3600, app, "never")
        self.assertGreater(await never.left() or 0, 3000)
        self.assertGreater(await never.cancel() or 0, 3000)
        self.assertEqual((await soon(app.receive())).body, "tick")
        self.assertIsNone(await kept.cancel())


class Calls(NodeTest):
    async def test_calls_are_answered_or_fail_with_the_type_of_their_code(self) -> None:
        app = await self.app(self.mesh.node("a"))
        server = await app.spawn(name="server")

        async def answer() -> None:
            async for event in server:
                match event:
                    case Call(["add", a, b]):
                        await event.reply(a + b)
                    case Call("fail"):
                        await event.fail(KeyError("pears"))
                    case Call("count"):
                        for part in range(3):
                            await event.reply(part, more=True)
                        await event.reply("done")

        answering = asyncio.ensure_future(answer())
        self.assertEqual(await app.call("server", ["add", 1, 2]), 3)
        with self.assertRaises(pillion.RemoteError) as failed:
            await app.call("server", "fail")
        self.assertEqual((failed.exception.error_class, failed.exception.reason), ("KeyError", "pears"))
        self.assertTrue(failed.exception.maybe_applied)
        self.assertIn("KeyError", failed.exception.stack or "")
        with self.assertRaises(pillion.Timeout) as late:
            await app.call("server", "silence", timeout=0.05)
        self.assertTrue(late.exception.maybe_applied)
        self.assertIsInstance(late.exception, TimeoutError)
        with self.assertRaises(pillion.NoProc):
            await app.call("nobody", 1)
        with self.assertRaises(pillion.CallingSelf):
            await app.call(app.pid, 1)
        stream = app.stream("server", "count")
        self.assertEqual([part async for part in stream], [0, 1, 2])
        self.assertEqual(stream.value, "done")
        await server.exit("sold out")
        with self.assertRaises(pillion.NoProc):
            await app.call("server", ["add", 1, 2])
        with self.assertRaises(pillion.NoProc):
            await soon(answering)

    async def test_a_hundred_calls_side_by_side_get_each_its_own_answer(self) -> None:
        one, two = await self.pair()
        echo = await two.spawn(name="echo")

        async def answer() -> None:
            held = []
            async for event in echo:
                held.append(event)
                if len(held) == 100:
                    for each in reversed(held):
                        assert isinstance(each, Call)
                        await each.reply(each.body * 2)

        answering = asyncio.ensure_future(answer())
        got = await soon(asyncio.gather(*(one.call(f"echo@{two.node}", n, timeout=50) for n in range(100))))
        self.assertEqual(got, [n * 2 for n in range(100)])
        answering.cancel()

    async def test_who_calls_a_process_that_dies_hears_why(self) -> None:
        one, two = await self.pair()
        doomed = await two.spawn(name="doomed")
        call = asyncio.ensure_future(one.call(f"doomed@{two.node}", 1, timeout=50))
        await soon(doomed.receive())
        await doomed.exit("sold out")
        with self.assertRaises(pillion.Exited) as raised:
            await soon(call)
        self.assertEqual(raised.exception.reason, "sold out")


class Ends(NodeTest):
    async def test_a_monitor_tells_of_the_end_exactly_once(self) -> None:
        one, two = await self.pair()
        other = await two.spawn(name="other")
        monitor = await one.monitor(other.pid)
        self.assertTrue(await one.alive(other.pid))  # Asked behind the monitor, so that is there.
        await other.exit("done")
        event = await soon(one.receive())
        assert isinstance(event, Down)
        self.assertEqual((event.ref, event.pid, event.reason), (monitor.ref, other.pid, "done"))
        late = await one.monitor("nobody")
        event = await soon(one.receive())
        assert isinstance(event, Down)
        self.assertEqual((event.ref, event.address, event.reason), (late.ref, "nobody", "noproc"))

    async def test_a_down_of_a_spawned_process_says_who_died(self) -> None:
        app = await self.app(self.mesh.node("a"))
        watcher, other = await app.spawn(), await app.spawn()
        await watcher.monitor(other)
        await other.exit("x")
        event = await soon(watcher.receive())
        assert isinstance(event, Down)
        self.assertEqual((event.pid, event.reason), (other.pid, "x"))

    async def test_a_linked_process_that_traps_hears_the_exit_and_lives(self) -> None:
        app = await self.app(self.mesh.node("a"))
        parent = await app.spawn(trap_exit=True)
        child = await parent.spawn(link=True)
        await child.exit("broken")
        event = await soon(parent.receive())
        assert isinstance(event, Exit)
        self.assertEqual((event.sender, event.reason), (child.pid, "broken"))
        self.assertTrue(await app.alive(parent))

    async def test_a_linked_process_that_does_not_trap_dies_with_the_other(self) -> None:
        app = await self.app(self.mesh.node("a"))
        parent = await app.spawn()
        child = await parent.spawn(link=True)
        await child.exit("broken")
        with self.assertRaises(pillion.NoProc) as raised:
            await soon(parent.receive())
        self.assertEqual(raised.exception.reason, "broken")
        self.assertEqual(parent.exit_reason, "broken")
        with self.assertRaises(pillion.NoProc):
            await parent.send("anybody", 1, confirm=True)

    async def test_a_spawn_that_is_cancelled_leaves_no_process_behind(self) -> None:
        app = await self.app(self.mesh.node("a"))
        for turns in range(10):
            spawning = asyncio.ensure_future(app.spawn(name="short"))
            for _ in range(turns):
                await asyncio.sleep(0)
            spawning.cancel()
            try:
                await (await spawning).exit()
            except asyncio.CancelledError:
                pass

            async def gone() -> bool:
                return await app.whereis("short") is None

            await until(gone)
        self.assertEqual(app._session.processes, {})

    async def test_leaving_the_with_of_a_process_ends_it(self) -> None:
        app = await self.app(self.mesh.node("a"))
        async with await app.spawn(name="short") as process:
            self.assertEqual(await app.whereis("short"), process.pid)
        self.assertIsNone(await app.whereis("short"))


class NamesAndGroups(NodeTest):
    async def test_names_are_given_found_and_taken_back_here_and_in_the_mesh(self) -> None:
        one, two = await self.pair()
        await one.register("till")
        self.assertEqual(await two.whereis("till", node=one.node), one.pid)
        with self.assertRaises(pillion.Taken):
            await (await one.spawn()).register("till")
        await one.register("boss", scope="global")
        await two.send("global:boss", "hello")
        event = await soon(one.receive())
        self.assertEqual((type(event), event.body), (Message, "hello"))
        await one.unregister("till")
        self.assertIsNone(await one.whereis("till"))

    async def test_every_member_of_a_group_hears_a_cast_and_one_answers_a_call(self) -> None:
        one, two = await self.pair()
        first, second = await one.spawn(), await two.spawn()
        async with one.watch_group("tills") as watch:
            changes = watch.__aiter__()
            await first.join("tills")
            await second.join("tills")
            seen: set[str] = set()
            while len(seen) < 2:
                seen.update((await soon(changes.__anext__())).joined)
            self.assertEqual(seen, {first.pid, second.pid})
        await one.cast("group:tills", "close")
        for process in (first, second):
            event = await soon(process.receive())
            self.assertEqual((type(event), event.body), (Cast, "close"))
        await first.leave("tills")
        self.assertEqual(await one.members("tills"), [second.pid])


class BackPressure(NodeTest):
    async def test_a_sender_waits_while_the_node_does_not_read_and_what_waits_keeps_its_order(self) -> None:
        node = self.mesh.node("a")
        app = await self.app(node)
        sink = await app.spawn(mailbox={"policy": "wait"})
        node.signal(signal.SIGSTOP)
        sent: list[int] = []

        async def send(number: int) -> None:
            await app.send(sink, [number, bytes(60_000)])
            sent.append(number)

        sending = [asyncio.ensure_future(send(number)) for number in range(100)]
        for _ in range(300):
            await asyncio.sleep(0)
        self.assertLess(len(sent), 50)
        node.signal(signal.SIGCONT)
        self.assertEqual([(await soon(sink.receive())).body[0] for _ in range(100)], list(range(100)))
        await soon(asyncio.gather(*sending))
        self.assertEqual(sent, list(range(100)))
