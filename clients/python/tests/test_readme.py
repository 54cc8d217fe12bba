"""What README.md shows was printed, and is still."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support import SECONDS, NodeTest

ROOT = Path(__file__).resolve().parents[1]
SHOWN = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


class Readme(NodeTest):
    async def test_every_program_of_the_readme_prints_what_it_shows(self) -> None:
        node = self.mesh.node("a")
        await self.app(node)
        programs = SHOWN.findall((ROOT / "README.md").read_text())
        self.assertGreaterEqual(len(programs), 8)
        env = {**os.environ, "PILLION_SOCKET": node.socket, "PYTHONPATH": str(ROOT / "src")}
        for program, shown in programs:
            ran = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=SECONDS
            )
            with self.subTest(program=program.splitlines()[:4]):
                self.assertEqual(ran.stdout, shown, ran.stderr)
