"""Real nodes for tests. Each test ends only what it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pillion

SECONDS = int(os.environ.get("PILLION_TEST_SECONDS", "60"))
"""How long anything may take that is awaited: a starved machine is slow."""


def binary() -> str | None:
    """The node's program: PILLION_BIN, else of a build up the tree, else of PATH."""
    named = os.environ.get("PILLION_BIN")
    if named:
        return named
    for above in Path(__file__).resolve().parents:
        for profile in ("debug", "release"):
            built = above / "target" / profile / "pillion"
            if built.is_file():
                return str(built)
    return shutil.which("pillion")


NO_NODE = "there is no pillion: set PILLION_BIN, or `cargo build` above, or put it on PATH"
needs_node = unittest.skipUnless(binary(), NO_NODE)


class Mesh:
    """A mesh of a name of its own, in a directory of its own."""

    def __init__(self) -> None:
        self.name = f"py{secrets.token_hex(4)}"
        self.directory = tempfile.mkdtemp(prefix="pillion-py-")
        self.nodes: list[Node] = []
        cookie = Path(self.directory, "cookie")
        cookie.write_text(secrets.token_hex(32))
        cookie.chmod(0o600)
        self.cookie = str(cookie)

    def node(self, name: str, *args: str) -> Node:
        node = Node(self, name, args)
        self.nodes.append(node)
        node.start()
        return node

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class Node:
    def __init__(self, mesh: Mesh, name: str, args: tuple[str, ...]) -> None:
        self.mesh, self.name, self.args = mesh, name, args
        self.directory = os.path.join(mesh.directory, "run")
        self.socket = os.path.join(self.directory, mesh.name, f"{name}.sock")
        self.program: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            binary() or "pillion", "up", "--mesh", self.mesh.name, "--name", self.name, "--dir", self.directory,
            "--cookie-file", self.mesh.cookie, "--listen", "127.0.0.1:0", "--strategy", "local://", *self.args,
        ]  # fmt: skip
        log = open(os.path.join(self.mesh.directory, f"{self.name}.log"), "ab")
        env = {key: value for key, value in os.environ.items() if not key.startswith("PILLION_")}
        self.program = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        log.close()

    def kill(self) -> None:
        """As if the machine took it: no time to say anything."""
        self.signal(signal.SIGKILL)
        if self.program is not None:
            self.program.wait()
            self.program = None

    def signal(self, number: int) -> None:
        if self.program is not None and self.program.poll() is None:
            self.program.send_signal(number)

    def ends(self) -> int:
        assert self.program is not None
        return self.program.wait(SECONDS)

    def drain(self) -> None:
        """Tells it to begin to leave; it stays up."""
        command = [binary() or "pillion", "--socket", self.socket, "drain", "--timeout", "0s"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=SECONDS)


@needs_node
class NodeTest(unittest.IsolatedAsyncioTestCase):
    """A test with a mesh; `node` of the first node that it asked for."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    async def app(self, node: Node, **options: Any) -> pillion.Client:
        app = await pillion.connect(node.socket, timeout=SECONDS, **options)
        self.addAsyncCleanup(app.close)
        return app

    async def pair(self) -> tuple[pillion.Client, pillion.Client]:
        """Apps of two nodes that are connected."""
        first, second = self.mesh.node("a"), self.mesh.node("b")
        one, two = await self.app(first), await self.app(second)
        await one.wait_for(two.node, timeout=SECONDS)
        await two.wait_for(one.node, timeout=SECONDS)
        return one, two


async def soon(awaitable: Awaitable[Any]) -> Any:
    """What is awaited, or a failure once it takes for ever."""
    return await asyncio.wait_for(awaitable, SECONDS)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Asks again and again for what the node can only be asked for."""
    end = time.monotonic() + SECONDS
    while True:
        with contextlib.suppress(pillion.PillionError):
            value = await condition()
            if value:
                return value
        if time.monotonic() > end:
            raise AssertionError("it did not come about")
        await asyncio.sleep(0.02)
