"""The programs of the articles, as they are in `examples/`, started as a reader starts them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from pillion import Message
from tests.support import SECONDS, Node, NodeTest, soon, until

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
SOURCES = Path(__file__).resolve().parents[1] / "src"


def environment(node: Node) -> dict[str, str]:
    return {**os.environ, "PILLION_SOCKET": node.socket, "PYTHONPATH": str(SOURCES)}


class Examples(NodeTest):
    def command(self, name: str, *args: str) -> list[str]:
        return [sys.executable, str(EXAMPLES / name / "python" / f"{name}.py"), *args]

    async def serve(self, node: Node, name: str, *args: str, registered: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            self.command(name, "serve", *args), env=environment(node), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

        def end() -> None:
            program.kill()
            program.wait()
            if program.stdout is not None:
                program.stdout.close()

        self.addCleanup(end)
        assert program.stdout is not None
        self.assertEqual(await soon(asyncio.to_thread(program.stdout.readline)), f"registered as {registered}\n")
        return program

    async def run_example(self, node: Node, name: str, *args: str) -> str:
        ran = await asyncio.to_thread(
            subprocess.run, self.command(name, *args), env=environment(node), capture_output=True, text=True, timeout=SECONDS
        )
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout.removesuffix("\n")

    async def test_product_stock_answers_shops_on_another_node_and_logs_who_asked(self) -> None:
        here, there = self.mesh.node("stock"), self.mesh.node("shop")
        await (await self.app(there)).wait_for("stock", timeout=SECONDS)
        program = await self.serve(here, "product_stock", "server", registered="server")
        nike, adidas = {"name": "nike", "qty": 30}, {"name": "adidas", "qty": 35}
        self.assertEqual(await self.run_example(there, "product_stock", "status", "server@stock"), "[]")
        added = await self.run_example(there, "product_stock", "add", "server@stock", "nike", "30")
        self.assertEqual(json.loads(added), [nike])
        await self.run_example(here, "product_stock", "add", "server", "adidas", "35")
        stock = await self.run_example(there, "product_stock", "status", "server@stock")
        self.assertEqual(stock, json.dumps([adidas, nike], separators=(",", ":")))
        program.terminate()
        printed = (await asyncio.to_thread(program.communicate))[0].splitlines()
        self.assertEqual([line.split("> ")[1] for line in printed].count("added a new item on stock"), 2)
        self.assertEqual([line.split("> ")[1] for line in printed].count("checked the stock"), 2)

    async def test_pos_answers_a_hundred_customers_each_with_their_own_product_and_outlives_the_stock(self) -> None:
        central, store = self.mesh.node("server"), self.mesh.node("store")
        app = await self.app(store)
        await app.wait_for("server", timeout=SECONDS)
        await self.serve(central, "product_stock", "server", registered="server")
        await self.serve(store, "pos", registered="pos")
        for number in range(50):
            await app.call("server@server", ["add", {"name": f"shoe{number}", "qty": number}])
        customers = [await app.spawn() for _ in range(100)]
        for number, customer in enumerate(customers):
            await customer.send("pos", ["ask", customer.pid, f"shoe{number}"])
        for number, customer in enumerate(customers):
            answer = (await soon(customer.receive(lambda event: isinstance(event, Message)))).body
            found = {"name": f"shoe{number}", "qty": number} if number < 50 else f"There is no Product shoe{number}"
            self.assertEqual(answer, ["print", found])
        self.assertEqual(await self.run_example(store, "pos", "ask", "pos", "shoe7"), '{"name":"shoe7","qty":7}')
        central.kill()

        async def noticed() -> bool:
            return await self.run_example(store, "pos", "ask", "pos", "shoe7") == "The stock does not answer: noconnection"

        await until(noticed)

    async def test_bot_says_what_it_can_and_the_date(self) -> None:
        node = self.mesh.node("a")
        await self.serve(node, "bot", registered="bot")
        said = await self.run_example(node, "bot", "help", "bot")
        self.assertEqual(said, "You can ask me what today's date is by passing date_today")
        before = datetime.now(timezone.utc).date()
        said = await self.run_example(node, "bot", "date", "bot")
        self.assertIn(said, [f"Today's date is {day}" for day in (before, datetime.now(timezone.utc).date())])
        self.assertEqual(await self.run_example(node, "bot", "say", "bot", "nonsense"), "Unknown message type")

    async def test_key_value_store_sets_gets_and_deletes(self) -> None:
        node = self.mesh.node("a")
        await self.serve(node, "key_value_store", registered="primary_store")
        await self.run_example(node, "key_value_store", "set", "primary_store", "foo", "bar")
        self.assertEqual(await self.run_example(node, "key_value_store", "get", "primary_store", "foo"), "bar")
        await self.run_example(node, "key_value_store", "delete", "primary_store", "foo")
        self.assertEqual(await self.run_example(node, "key_value_store", "get", "primary_store", "foo"), "null")
