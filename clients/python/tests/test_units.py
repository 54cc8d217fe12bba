"""Frames, mailboxes, counting and finding: without a node."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from cbor2 import dumps

import pillion
from pillion import errors, frames
from pillion.events import Message
from pillion.find import find
from pillion.mailbox import Mailbox
from pillion.pending import Pending, Waiting
from pillion.serve import functions_of

GOLDEN = Path(__file__).resolve().parents[3] / "tests" / "wire" / "golden"


def golden(name: str) -> list[tuple[str, bytes]]:
    """The events or commands of the node's golden file: each as JSON, and as its frame."""
    rows, line = [], ""
    for text in (GOLDEN / name).read_text().splitlines():
        if text.startswith("json"):
            line = text.removeprefix("json").strip()
        elif text.startswith("frame"):
            rows.append((line, bytes.fromhex(text.removeprefix("frame").strip())))
    return rows


class Frames(unittest.TestCase):
    def test_a_stream_is_cut_into_the_same_frames_wherever_reads_end(self) -> None:
        sent = [({"ev": "message", "from": f"<{n}>"}, dumps("x" * n)) for n in (0, 1, 100, 70_000)] * 2
        data = b"".join(frames.frame(header, body) for header, body in sent)
        for step in (1, 5, 7, 4096, len(data)):
            parser = frames.Parser()
            got = [each for at in range(0, len(data), step) for each in parser.feed(data[at : at + step])]
            self.assertEqual(got, sent, step)

    def test_every_golden_event_is_read(self) -> None:
        if not GOLDEN.is_dir():
            self.skipTest("the golden files are in the repository, not here")
        events = golden("events.txt")
        self.assertGreater(len(events), 30)
        for line, raw in events:
            parsed = list(frames.Parser().feed(raw))
            self.assertEqual(len(parsed), 1, line)
            self.assertIn("ev", parsed[0][0], line)

    def test_commands_are_written_as_the_golden_ones(self) -> None:
        if not GOLDEN.is_dir():
            self.skipTest("the golden files are in the repository, not here")
        known = [raw for _, raw in golden("commands.txt")]
        self.assertIn(frames.frame({"op": "send", "to": "stock"}, dumps({"take": 3, "of": "apples"})), known)
        self.assertIn(frames.frame({"op": "more", "n": 128}), known)
        call = b"\xa3\x62op\x64call\x62id" + frames.uint(32) + b"\x62to" + dumps("stock")
        self.assertIn(frames.raw_frame(call, dumps(["get", "apples"])), known)

    def test_what_is_no_frame_is_refused_and_what_is_no_cbor_stays_bytes(self) -> None:
        too_long, no_room = b"\xff\xff\xff\xff\x00\x01", b"\x00\x00\x00\x04\x00\x05xx"
        for data in (too_long, no_room, frames.raw_frame(b"\xff", b""), frames.raw_frame(b"\x01", b"")):
            with self.assertRaises(frames.Malformed):
                list(frames.Parser().feed(data))
        self.assertEqual(frames.body_value({}, b"\xff\x00"), (b"\xff\x00", frames.OCTETS))
        self.assertEqual(frames.body_value({"ct": "a/b"}, b"x"), (b"x", "a/b"))
        self.assertEqual(frames.body_value({}, b""), (None, None))

    def test_what_cannot_be_written_is_an_error_of_whoever_wrote_it(self) -> None:
        with self.assertRaises(pillion.BadArg):
            frames.body_bytes(object(), None)
        with self.assertRaises(pillion.TooLarge):
            frames.header_bytes({"to": "x" * 70_000})

    def test_whole_numbers_are_written_as_cbor_does(self) -> None:
        for number in (0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53):
            self.assertEqual(frames.uint(number), dumps(number))

    def test_every_code_has_a_type_and_an_unknown_one_keeps_its_code(self) -> None:
        for code, kind in errors._CLASSES.items():
            error = errors.of_answer({"code": code, "message": "m", "maybe_applied": True})
            self.assertIs(type(error), kind)
            self.assertEqual((error.code, error.message, error.maybe_applied), (code, "m", True))
        unknown = errors.of_answer({"code": "brand_new"})
        self.assertEqual((type(unknown), unknown.code), (pillion.PillionError, "brand_new"))


class Counting(unittest.IsolatedAsyncioTestCase):
    def test_functions_are_found_in_classes_objects_mappings_and_functions(self) -> None:
        class Some:
            value = 3

            def shown(self) -> None: ...

            def _hidden(self) -> None: ...

        self.assertEqual(list(functions_of(Some)), ["shown"])
        self.assertEqual(list(functions_of(Some())), ["shown"])
        self.assertEqual(list(functions_of({"a": len})), ["a"])
        self.assertEqual(list(functions_of(len)), ["len"])

    async def test_what_was_not_carried_out_is_told_from_what_was(self) -> None:
        pending = Pending()
        pending.begin(1)
        answers: list[asyncio.Future[Any]] = []

        def command(with_id: bool) -> None:
            pending.written += 1
            if with_id:
                answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                answers.append(answer)
                pending.waiting[pending.id()] = Waiting(answer, pending.written, None, None, None)

        for with_id in (True, False, False, True, False):
            command(with_id)
        pending.wrote_more()
        # The node has read the first `hello` and two commands, and this second `hello`.
        self.assertEqual(pending.resumed(4), 2)
        self.assertFalse(answers[0].done())
        lost = answers[1].exception()
        assert isinstance(lost, pillion.Lost)
        self.assertFalse(lost.maybe_applied)
        self.assertEqual(pending.written, 4)
        command(False)
        self.assertEqual(pending.restarted(), 3)
        lost = answers[0].exception()
        assert isinstance(lost, pillion.Lost)
        self.assertTrue(lost.maybe_applied)

    async def test_a_mailbox_tells_at_half_a_window_and_before_it_waits(self) -> None:
        told: list[int] = []
        process = mock.Mock()
        process._more = told.append
        mailbox = Mailbox(process)
        for number in range(200):
            mailbox.put(Message({"ev": "message"}, number, None, process))
        for _ in range(127):
            mailbox.take()
        self.assertEqual(told, [])
        mailbox.take()
        self.assertEqual(told, [128])
        while mailbox.take() is not None:
            pass
        self.assertIsNone(await mailbox.receive(timeout=0))
        self.assertEqual(told, [128, 72])

    async def test_a_predicate_that_fails_fails_its_receive_and_takes_nothing(self) -> None:
        mailbox = Mailbox(mock.Mock())
        waiting = asyncio.ensure_future(mailbox.receive(lambda event: event.body["no such"] == 1))
        await asyncio.sleep(0)
        mailbox.put(Message({"ev": "message"}, {}, None, mock.Mock()))
        with self.assertRaises(KeyError):
            await waiting
        self.assertEqual(len(mailbox), 1)


class Finding(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PILLION_")}
        patched = mock.patch.dict(os.environ, {**clean, "PILLION_DIR": directory.name}, clear=True)
        patched.start()
        self.addCleanup(patched.stop)

    def listen(self, name: str) -> str:
        path = self.directory / "mesh" / name
        path.parent.mkdir(exist_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(path))
        listening.listen()
        return str(path)

    def test_the_only_socket_that_answers_is_found(self) -> None:
        with self.assertRaisesRegex(pillion.Unreachable, "pillion up"):
            find()
        path = self.listen("a.sock")
        self.listen("a.operator.sock")
        (self.directory / "mesh" / "dead.sock").touch()
        self.assertEqual(find(), path)
        other = self.listen("b.sock")
        with self.assertRaisesRegex(pillion.Unreachable, "2 nodes run here") as several:
            find()
        self.assertIn(other, str(several.exception))

    def test_a_named_socket_comes_first_and_is_not_tried(self) -> None:
        self.listen("a.sock")
        with mock.patch.dict(os.environ, {"PILLION_SOCKET": "/nobody/there.sock"}):
            self.assertEqual(find(), "/nobody/there.sock")
            self.assertEqual(find("/mine.sock"), "/mine.sock")

    def test_a_directory_of_another_user_is_not_trusted(self) -> None:
        self.listen("a.sock")
        with mock.patch("os.geteuid", return_value=os.geteuid() + 1), self.assertRaisesRegex(pillion.Unreachable, "another user"):
            if os.lstat(self.directory).st_uid == 0:
                os.chown(self.directory, 12345, -1)
            find()
