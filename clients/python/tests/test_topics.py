"""Topics, presence, and nodes that come and go."""

from __future__ import annotations

import asyncio

import pillion
from pillion import Gap, NodeDown, NodeUp
from tests.support import NodeTest, soon


class Topics(NodeTest):
    async def test_a_subscription_hears_what_another_node_publishes_in_its_order(self) -> None:
        one, two = await self.pair()
        async with one.subscribe("shop.*", sync=True) as shop:
            for number in range(1000):
                await two.publish("shop.tea", number)
            got = []
            async for message in shop:
                got.append(message.body)
                if len(got) == 1000:
                    break
            self.assertEqual(got, list(range(1000)))
            self.assertEqual((message.topic, message.sender), ("shop.tea", two.pid))
            self.assertEqual(await two.subscribers("shop.tea"), 1)
        self.assertEqual(await one.subscribers("shop.tea"), 0)

    async def test_each_message_goes_to_one_member_of_a_queue_group(self) -> None:
        app = await self.app(self.mesh.node("a"))
        got: list[int] = []
        done = asyncio.Event()

        async def work() -> None:
            async with app.subscribe("job", group="workers") as jobs:
                ready.release()
                async for job in jobs:
                    got.append(job.body)
                    if len(got) == 100:
                        done.set()

        ready = asyncio.Semaphore(0)
        workers = [asyncio.ensure_future(work()) for _ in range(3)]
        for _ in workers:
            await soon(ready.acquire())
        for number in range(100):
            await app.publish("job", number)
        await soon(done.wait())
        self.assertEqual(sorted(got), list(range(100)))
        for worker in workers:
            worker.cancel()

    async def test_a_retained_value_is_given_to_who_subscribes_later(self) -> None:
        app = await self.app(self.mesh.node("a"))
        await app.publish("shop.tea", {"left": 3}, retain=True, confirm=True)
        async with app.subscribe("shop.>") as shop:
            async for message in shop:
                break
        self.assertEqual((message.body, message.retained), ({"left": 3}, True))
        await app.publish("shop.tea", pillion.ABSENT, retain=True, confirm=True)

    async def test_what_a_full_mailbox_lost_is_told_as_a_gap(self) -> None:
        node = self.mesh.node("a", "--mailbox-entries", "300")
        app = await self.app(node)
        sub = await app.subscribe("flood")
        for number in range(2000):
            await app.publish("flood", number, mode="lossy")
        await app.publish("other", 1, confirm=True)
        got = lost = 0
        async for event in sub.events():
            if isinstance(event, Gap):
                self.assertEqual(event.reason, "overflow")
                lost += event.lost
            else:
                got += 1
            if got + lost == 2000:
                break
        self.assertGreater(lost, 0)
        self.assertGreaterEqual(got, 300)

    async def test_a_gap_is_given_to_the_callback(self) -> None:
        node = self.mesh.node("a", "--mailbox-entries", "10")
        app = await self.app(node)
        gaps: asyncio.Queue[Gap] = asyncio.Queue()

        async def read(sub: pillion.Subscription) -> None:
            async for _ in sub:
                pass

        heard = await app.subscribe("flood", on_gap=gaps.put_nowait)
        for number in range(1000):
            await app.publish("flood", number, mode="lossy")
        await app.publish("other", 1, confirm=True)
        reading = asyncio.ensure_future(read(heard))
        self.assertGreater((await soon(gaps.get())).lost, 0)
        reading.cancel()


class Presence(NodeTest):
    async def test_presence_is_tracked_watched_and_listed_across_nodes(self) -> None:
        one, two = await self.pair()
        async with one.watch_presence("room.1") as watch:
            changes = watch.__aiter__()
            await two.track("room.1", "ann", {"at": "desk"})
            seen: list[str] = []
            while not seen:
                seen = [each.key for each in (await soon(changes.__anext__())).joins]
            self.assertEqual(seen, ["ann"])
            self.assertEqual([each.metadata for each in watch.present.values()], [{"at": "desk"}])
            with self.assertRaises(pillion.Taken):
                await two.track("room.1", "ann")
            await two.update_presence("room.1", "ann", {"at": "door"})
            change = await soon(changes.__anext__())
            self.assertEqual([each.metadata for each in change.joins], [{"at": "door"}])
            self.assertEqual([each.key for each in await one.presence("room.1")], ["ann"])
            await two.untrack("room.1", "ann")
            change = await soon(changes.__anext__())
            self.assertEqual([each.key for each in change.leaves], ["ann"])
            self.assertEqual(watch.present, {})

    async def test_nodes_are_heard_as_they_come_and_go(self) -> None:
        first = self.mesh.node("a")
        app = await self.app(first)
        async with app.watch_nodes() as watch:
            changes = watch.__aiter__()
            second = self.mesh.node("b")
            up = await soon(changes.__anext__())
            assert isinstance(up, NodeUp)
            self.assertTrue(up.node.startswith("b@"))
            second.kill()
            down = await soon(changes.__anext__())
            assert isinstance(down, NodeDown)
            self.assertEqual(down.node, up.node)
