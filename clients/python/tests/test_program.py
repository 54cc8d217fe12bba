"""A program that is one GenServer, hosted by a node and by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pillion
from pillion import Down
from tests.support import SECONDS, Node, NodeTest, binary, soon, until

ROOT = Path(__file__).resolve().parents[1]
STORE = [sys.executable, "-m", "tests.store"]


class Programs(NodeTest):
    def setUp(self) -> None:
        super().setUp()
        self.node = self.mesh.node("a")

    def program(self, *args: str, node: Node | None = None) -> subprocess.Popen[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("PILLION_")}
        env |= {"PILLION_SOCKET": (node or self.node).socket, "PYTHONPATH": str(ROOT / "src")}
        pipe = subprocess.PIPE
        program = subprocess.Popen([*STORE, *args], cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)

        def end() -> None:
            program.kill()
            program.communicate()

        self.addCleanup(end)
        assert program.stdout is not None
        self.assertEqual(program.stdout.readline(), "registered\n")
        return program

    async def host(self, *args: str) -> None:
        command = [
            binary() or "pillion", "--socket", self.node.socket, "host", "primary_store", "--restart", "transient", "--cwd", str(ROOT),
            "--env", f"PYTHONPATH={ROOT / 'src'}", "--", *STORE, *args,
        ]  # fmt: skip
        hosted = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=SECONDS)
        self.assertEqual(hosted.returncode, 0, hosted.stderr)

    async def test_a_supervisor_starts_a_store_that_crashed_anew_and_leaves_one_that_stopped(self) -> None:
        for way in ("asyncio", "sync"):
            with self.subTest(way=way):
                self.node = self.mesh.node(way)
                app = await self.app(self.node)
                await self.host(way)
                before = await app.whereis("primary_store")
                await app.monitor("primary_store")
                await app.cast("primary_store", ["set", "bar", 2])
                self.assertEqual(await app.call("primary_store", ["get", "bar"], timeout=SECONDS), 2)

                with self.assertRaises(pillion.RemoteError) as raised:
                    await app.call("primary_store", ["boom"], timeout=SECONDS)
                self.assertEqual((raised.exception.error_class, raised.exception.reason), ("Boom", "it broke"))
                down = await soon(app.receive(lambda event: isinstance(event, Down)))
                self.assertEqual(down.reason, "Boom: it broke")

                async def anew() -> Any:
                    pid = await app.whereis("primary_store")
                    return pid not in (None, before) and await app.call("primary_store", ["get", "foo"], timeout=SECONDS)

                self.assertEqual(await until(anew), 1)
                self.assertIsNone(await app.call("primary_store", ["get", "bar"], timeout=SECONDS))

                await app.monitor("primary_store")
                self.assertEqual(await app.call("primary_store", ["stop", "normal"], timeout=SECONDS), "ok")
                down = await soon(app.receive(lambda event: isinstance(event, Down)))
                self.assertEqual(down.reason, "normal")
                await until(lambda: self.has_ended_for_good(app))
                self.assertIsNone(await app.whereis("primary_store"))

    async def has_ended_for_good(self, app: pillion.Client) -> bool:
        answer = await app.request("tree")
        children = [child for supervisor in answer for child in supervisor["children"]]
        (child,) = [child for child in children if child["name"] == "primary_store"]
        return (child["state"], child.get("last")) == ("stopped", "normal")

    async def test_a_hosted_store_ends_with_its_node(self) -> None:
        app = await self.app(self.node)
        await self.host()
        number = await app.call("primary_store", ["os_pid"], timeout=SECONDS)
        descriptor = os.pidfd_open(number)
        self.addCleanup(os.close, descriptor)
        self.node.kill()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        self.addCleanup(asyncio.get_running_loop().remove_reader, descriptor)
        await soon(ended.wait())

    async def test_a_failure_is_status_1_and_one_line_that_says_why(self) -> None:
        app = await self.app(self.node)
        program = self.program()
        with self.assertRaises(pillion.RemoteError):
            await app.call("primary_store", ["boom"], timeout=SECONDS)
        out, err = await asyncio.to_thread(program.communicate, timeout=SECONDS)
        self.assertEqual((program.returncode, out), (1, "ended: Boom: it broke\n"))
        self.assertEqual(err.splitlines()[-1], "primary_store has ended: Boom: it broke")

    async def test_a_stop_that_is_no_failure_is_status_0(self) -> None:
        app = await self.app(self.node)
        for reason in ("normal", "shutdown", "shutdown: moved"):
            program = self.program()
            await app.call("primary_store", ["stop", reason], timeout=SECONDS)
            out, err = await asyncio.to_thread(program.communicate, timeout=SECONDS)
            self.assertEqual((program.returncode, out, err), (0, f"ended: {reason}\n", ""))

    async def test_an_exit_signal_is_the_end_with_its_reason(self) -> None:
        app = await self.app(self.node)
        program = self.program()
        await app.kill("primary_store", "out of stock")
        out, err = await asyncio.to_thread(program.communicate, timeout=SECONDS)
        self.assertEqual((program.returncode, out), (1, "ended: out of stock\n"))
        self.assertEqual(err, "primary_store has ended: out of stock\n")

    async def test_sigterm_answers_what_it_was_given_and_is_status_0(self) -> None:
        app = await self.app(self.node)
        for way, number in (("asyncio", signal.SIGTERM), ("asyncio", signal.SIGINT), ("sync", signal.SIGTERM)):
            program = self.program(way)
            watched = await app.monitor("primary_store")
            answer = asyncio.ensure_future(app.call("primary_store", ["slow", 7], timeout=SECONDS))
            assert program.stdout is not None
            self.assertEqual(await asyncio.to_thread(program.stdout.readline), "working\n")
            program.send_signal(number)
            self.assertEqual(await soon(answer), 7)
            out, err = await asyncio.to_thread(program.communicate, timeout=SECONDS)
            self.assertEqual((program.returncode, out, err), (0, "ended: shutdown\n", ""))
            down = await soon(app.receive(lambda event: isinstance(event, Down) and event.ref == watched.ref))
            self.assertEqual(down.reason, "shutdown")

    async def test_a_node_that_leaves_ends_the_program_with_status_0(self) -> None:
        program = self.program()
        self.node.signal(signal.SIGTERM)
        out, err = await asyncio.to_thread(program.communicate, timeout=SECONDS)
        self.assertEqual((program.returncode, out, err), (0, "ended: shutdown\n", ""))

    async def test_what_cannot_start_says_so(self) -> None:
        self.program()
        with self.assertRaises(subprocess.CalledProcessError) as failed:
            env = {**os.environ, "PILLION_SOCKET": self.node.socket, "PYTHONPATH": str(ROOT / "src")}
            await asyncio.to_thread(
                subprocess.run, STORE, cwd=ROOT, env=env, check=True, capture_output=True, text=True, timeout=SECONDS
            )
        self.assertEqual(failed.exception.returncode, 1)
        self.assertRegex(failed.exception.stderr, r"^primary_store cannot start: .*primary_store.*\n$")
