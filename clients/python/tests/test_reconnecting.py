"""What becomes of an app when its connection breaks, when its node is killed, and when its node leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

import pillion
from pillion import Call, Down, Exit, Gap, GenServer, Report
from tests.support import SECONDS, NodeTest, soon, until


class Counter(GenServer):
    def init(self) -> None:
        self.count = 0
        self.ended: list[str] = getattr(self, "ended", [])

    def handle_call(self, request: Any, call: Call) -> Any:
        self.count += 1
        return self.count

    async def handle_cast(self, request: Any) -> None:
        await asyncio.sleep(0)

    def terminate(self, reason: str) -> None:
        self.ended.append(reason)


def cut(app: pillion.Client) -> None:
    """Breaks the connection of an app, as a fault would, and nothing else."""
    link = app._session._link
    assert link is not None and link._transport is not None
    link._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class Breaks(NodeTest):
    async def test_a_broken_connection_is_resumed_and_nothing_is_lost_of_what_was_not_under_way(self) -> None:
        reports: asyncio.Queue[Report] = asyncio.Queue()
        gone: asyncio.Queue[str] = asyncio.Queue()
        node = self.mesh.node("a")
        app = await self.app(node, grace=30.0, on_report=reports.put_nowait, on_disconnected=gone.put_nowait)
        other = await self.app(node)
        process = await app.spawn(name="till")
        pids = app.pid, process.pid
        await process.monitor(other)
        cut(app)
        await soon(gone.get())
        await other.send("till", "while away", confirm=True)
        self.assertIsNone(await soon(app.whereis("nobody")))
        report = await soon(reports.get())
        self.assertTrue(report.resumed)
        self.assertEqual(report.lost_commands, 0)
        self.assertEqual((app.pid, process.pid), pids)
        self.assertEqual((await soon(process.receive())).body, "while away")
        self.assertEqual(await app.whereis("till"), process.pid)
        await other.close()
        self.assertIsInstance(await soon(process.receive()), Down)

    async def test_breaks_again_and_again_leave_every_call_with_one_end_and_the_windows_open(self) -> None:
        node = self.mesh.node("a")
        app, other = await self.app(node, grace=30.0), await self.app(node)
        server = await other.start(Counter, name="counter")
        sink = await app.spawn(name="sink")
        ends: list[Any] = []

        async def load() -> None:
            while len(ends) < 2000:
                try:
                    ends.append(await app.call("counter", "up", timeout=SECONDS))
                except pillion.Lost as lost:
                    ends.append(lost)

        workers = [asyncio.ensure_future(load()) for _ in range(20)]
        for breaks in range(1, 6):
            while len(ends) <= 300 * breaks:
                await asyncio.sleep(0)
            cut(app)
        await soon(asyncio.gather(*workers))
        lost = [each for each in ends if isinstance(each, pillion.Lost)]
        done = len(ends) - len(lost)
        # A call is carried out once, or not at all; only of those that say so nobody knows.
        self.assertGreaterEqual(server.count, done)
        self.assertLessEqual(server.count, done + sum(1 for each in lost if each.maybe_applied))
        for number in range(1000):
            await other.send(sink.pid, number)
        got = [(await soon(sink.receive())).body for _ in range(1000)]
        self.assertEqual(got, list(range(1000)))

    async def test_a_killed_node_that_comes_back_has_everything_declared_again_and_every_loss_is_told(self) -> None:
        reports: asyncio.Queue[Report] = asyncio.Queue()
        node = self.mesh.node("a")
        app = await self.app(node, on_report=reports.put_nowait, on_failed=lambda *_: None)
        process = await app.spawn(name="till", label="shelf 7", trap_exit=True)
        await process.register("boss", scope="global")
        await process.join("tills")
        await process.track("room.1", "ann", {"at": "desk"})
        await app.serve("math", {"double": lambda x: 2 * x})
        server = await app.start(Counter, name="counter")
        shop = await app.subscribe("shop.*")
        friend = await app.spawn()
        await process.link(friend)
        stranger = await self.app(node, on_report=lambda _: None)
        strange = stranger.pid
        await process.link(strange)
        never = await app.spawn(name="never")
        lonely = await process.monitor(never.pid)
        before = app.pid, process.pid

        stop = asyncio.Event()
        ends: list[pillion.PillionError | int] = []

        async def load() -> None:
            while not stop.is_set():
                try:
                    ends.append(await app.call("counter", "up", timeout=SECONDS))
                    await app.cast("counter", "noise")
                except pillion.PillionError as error:
                    ends.append(error)

        workers = [asyncio.ensure_future(load()) for _ in range(20)]
        await until(lambda: _truth(len(ends) > 200))
        node.kill()
        node.start()
        report = await soon(reports.get())
        self.assertFalse(report.resumed)
        count = len(ends)
        await until(lambda: _truth(len(ends) > count + 200))
        stop.set()
        await soon(asyncio.gather(*workers))
        errors = [each for each in ends if not isinstance(each, int)]
        self.assertTrue(all(isinstance(error, (pillion.Lost, pillion.NoProc, pillion.Exited)) for error in errors), errors[:3])
        self.assertLessEqual(len([error for error in errors if isinstance(error, pillion.Lost)]), 20)

        self.assertNotEqual((app.pid, process.pid), before)
        down = await soon(process.receive(lambda event: isinstance(event, Down)))
        self.assertEqual((down.ref, down.reason), (lonely.ref, "noconnection"))
        left = await soon(process.receive(lambda event: isinstance(event, Exit)))
        self.assertEqual((left.sender, left.reason), (strange, "noconnection"))
        gap = await soon(process.receive(lambda event: isinstance(event, Gap)))
        self.assertEqual((gap.lost, gap.reason), (0, "restarted"))
        self.assertEqual(await app.whereis("till"), process.pid)
        self.assertEqual((await app.info(process, ["label", "links"]))["label"], "shelf 7")
        self.assertEqual((await app.info(process, ["links"]))["links"], [friend.pid])
        self.assertEqual(await app.whereis("boss", scope="global"), process.pid)
        self.assertEqual(await app.members("tills"), [process.pid])
        self.assertEqual([(each.key, each.metadata) for each in await app.presence("room.1")], [("ann", {"at": "desk"})])
        self.assertEqual(await app.rpc(app.node, "math", "double", 4), 8)
        self.assertEqual(await app.whereis("counter"), server.pid)
        await app.publish("shop.tea", 7)
        events = shop.events().__aiter__()
        self.assertIsInstance(await soon(events.__anext__()), Gap)
        message = await soon(events.__anext__())
        self.assertEqual(message.body, 7)

    async def test_a_kill_of_the_apps_own_process_ends_the_session_and_the_app_begins_anew(self) -> None:
        reports: asyncio.Queue[Report] = asyncio.Queue()
        node = self.mesh.node("a")
        app, other = await self.app(node, on_report=reports.put_nowait), await self.app(node)
        await app.register("boss")
        before = app.pid
        await other.kill("boss")
        self.assertFalse((await soon(reports.get())).resumed)
        self.assertEqual(await app.whereis("boss"), app.pid)
        self.assertNotEqual(app.pid, before)

    async def test_a_frame_that_cannot_be_read_breaks_the_connection_and_no_more(self) -> None:
        reports: asyncio.Queue[Report] = asyncio.Queue()
        app = await self.app(self.mesh.node("a"), grace=30.0, on_report=reports.put_nowait)
        before = app.pid
        assert app._session._link is not None
        app._session._link.data_received(b"\xff" * 6)
        self.assertTrue((await soon(reports.get())).resumed)
        self.assertEqual(await app.call(await app.start(Counter), "up"), 1)
        self.assertEqual(app.pid, before)

    async def test_without_a_callback_a_loss_is_logged(self) -> None:
        node = self.mesh.node("a")
        app = await self.app(node)
        sink = await app.spawn()
        with self.assertLogs("pillion", "WARNING") as logged:
            node.signal(signal.SIGSTOP)
            for _ in range(100):
                await app.send(sink, "never read")
            await asyncio.sleep(0)
            node.kill()
            node.start()
            await until(lambda: app.ping(app.node))
        self.assertTrue(any("unsure_commands=100" in line for line in logged.output), logged.output)

    async def test_a_call_while_the_node_is_away_ends_at_its_deadline_and_was_not_applied(self) -> None:
        node = self.mesh.node("a")
        app = await self.app(node)
        node.kill()
        await until(lambda: _truth(not app.is_connected))
        with self.assertRaises(pillion.Lost) as lost:
            await soon(app.call("anybody", 1, timeout=0.05))
        self.assertFalse(lost.exception.maybe_applied)

    async def test_an_app_that_is_started_before_its_node_waits_for_it(self) -> None:
        node = self.mesh.node("a")
        node.kill()
        connecting = asyncio.ensure_future(self.app(node))
        await asyncio.sleep(0)
        node.start()
        self.assertEqual(await soon((await soon(connecting)).whereis("nobody")), None)

    async def test_where_there_is_no_node_the_error_names_the_path_and_what_to_do(self) -> None:
        path = os.path.join(self.mesh.directory, "nobody.sock")
        with self.assertRaises(pillion.Unreachable) as raised:
            await pillion.connect(path, timeout=0.05)
        self.assertIn(path, str(raised.exception))
        self.assertIn("pillion up", str(raised.exception))


class Leaves(NodeTest):
    async def test_a_node_that_is_told_to_stop_waits_for_what_was_given_and_the_next_one_gets_everything(self) -> None:
        drained: asyncio.Queue[None] = asyncio.Queue()
        node = self.mesh.node("a", "--grace", "60s")
        app = await self.app(node, on_drained=lambda: drained.put_nowait(None))
        other = await self.app(node, on_draining=lambda: None)
        server = await app.start(Counter, name="counter")
        release = asyncio.Event()

        async def hold() -> str:
            await release.wait()
            return "held until it was done"

        await app.serve("slow", {"hold": hold})
        shop = await app.subscribe("shop.*")
        await other.publish("shop.tea", "delivered", confirm=True)
        held = asyncio.ensure_future(other.rpc("any", "slow", "hold", timeout=SECONDS))
        self.assertEqual(await other.call("counter", "up"), 1)
        await until(lambda: _truth(not app._modules["slow"].is_idle))
        node.signal(signal.SIGTERM)
        heard = [message.body async for message in shop]
        self.assertEqual(heard, ["delivered"])
        self.assertFalse(app._is_drained)
        release.set()
        self.assertEqual(await soon(held), "held until it was done")
        await soon(app.drained())
        await soon(drained.get())
        self.assertEqual(server.ended, ["shutdown"])
        await other.close()
        self.assertEqual(await asyncio.to_thread(node.ends), 0)
        node.start()
        self.assertEqual(await soon(app.call("counter", "up", timeout=SECONDS)), 1)
        self.assertEqual(await app.rpc("any", "slow", "hold"), "held until it was done")

    async def test_with_a_callback_the_app_decides_when_it_leaves(self) -> None:
        asked = asyncio.Event()
        node = self.mesh.node("a", "--grace", "60s")
        app = await self.app(node, on_draining=asked.set)
        node.signal(signal.SIGTERM)
        await soon(asked.wait())
        self.assertIsNone(await app.whereis("nobody"))
        await app.drain()
        self.assertEqual(await asyncio.to_thread(node.ends), 0)


async def _truth(value: bool) -> bool:
    return value
