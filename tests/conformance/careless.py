#!/usr/bin/env python3
"""A driver with the smallest client that keeps a few promises, and with CARELESS breaks one: draining, gap, more, seen."""

import json
import os
import socket
import struct
import sys
import threading
import time

FAULT = os.environ.get("CARELESS", "")


def put(item):
    def head(major, n):
        for extra, size, form in ((24, 1 << 8, ">B"), (25, 1 << 16, ">H"), (26, 1 << 32, ">I"), (27, 1 << 64, ">Q")):
            if n < 24:
                return bytes([major << 5 | n])
            if n < size:
                return bytes([major << 5 | extra]) + struct.pack(form, n)

    if item is None or item is True or item is False:
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[item]
    if isinstance(item, int):
        return head(0, item) if item >= 0 else head(1, -1 - item)
    if isinstance(item, str):
        return head(3, len(item.encode())) + item.encode()
    if isinstance(item, list):
        return head(4, len(item)) + b"".join(map(put, item))
    return head(5, len(item)) + b"".join(put(key) + put(value) for key, value in item.items())


def take(data, at=0):
    major, n = data[at] >> 5, data[at] & 31
    at += 1
    if 24 <= n <= 27 and major != 7:
        size = 1 << n - 24
        n, at = int.from_bytes(data[at:at + size], "big"), at + size
    if major == 0:
        return n, at
    if major == 1:
        return -1 - n, at
    if major == 3:
        return data[at:at + n].decode(), at + n
    if major == 7:
        return {20: False, 21: True}.get(n), at
    items = []
    for _ in range(n * (major - 3)):
        item, at = take(data, at)
        items.append(item)
    return (items if major == 4 else dict(zip(items[::2], items[1::2]))), at


class Client:
    def __init__(self, name):
        self.name, self.next, self.waiting, self.mailbox, self.taken = name, 1, {}, [], 0
        self.lock, self.session, self.seen, self.drains, self.over = threading.Condition(), None, 0, False, False
        threading.Thread(target=self.run, daemon=True).start()

    def write(self, header, *body):
        head = put(header)
        rest = struct.pack(">H", len(head)) + head + b"".join(map(put, body))
        self.socket.sendall(struct.pack(">I", len(rest)) + rest)

    def ask(self, label, header, *body):
        with self.lock:
            self.next += 1
            self.waiting[self.next] = label
            self.write({"op": header.pop("op"), "id": self.next, **header}, *body)

    def run(self):
        while not self.over:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(os.environ["PILLION_SOCKET"])
            except OSError:
                time.sleep(0.02)
                continue
            hello = {"op": "hello", "id": 1, "version": 1, "client": self.name, "delivery": {"window": 256}, "grace_ms": 30000}
            resumes = self.session is not None
            if resumes:
                seen = self.seen + (FAULT == "seen")
                hello["resume"] = {"session": self.session["session"], "secret": self.session["secret"], "seen": seen}
            self.write(hello)
            reader = self.socket.makefile("rb")
            while length := reader.read(4):
                rest = reader.read(*struct.unpack(">I", length))
                end = 2 + int.from_bytes(rest[:2], "big")
                with self.lock:
                    self.hears(take(rest[2:end])[0], take(rest[end:])[0] if len(rest) > end else None, resumes)

    def hears(self, head, body, resumes):
        self.seen += 1
        event = head["ev"]
        if event == "welcome":
            self.session = head
            if resumes:
                say("report", resumed=True, lost_events=0, lost_commands=0, unsure_commands=0)
            else:
                say("c", value={"node": head["node"], "pid": head["pid"]})
        elif event == "ok" and head["id"] in self.waiting:
            label = self.waiting.pop(head["id"])
            if label is None:
                self.over = True
                say("drained")
            else:
                say(label, value=body)
        elif event == "draining":
            self.drains = FAULT != "draining"
        elif event in ("message", "gap") and not (event == "gap" and FAULT == "gap"):
            self.mailbox.append({**head, "body": body})
            self.lock.notify_all()
        if self.drains and not self.waiting:
            self.drains = False
            self.next += 1
            self.waiting[self.next] = None
            self.write({"op": "bye", "id": self.next})

    def receive(self, label):
        with self.lock:
            if not self.mailbox:
                self.more()
            while not self.mailbox:
                self.lock.wait()
            event = self.mailbox.pop(0)
            self.taken += event["ev"] == "message"
            if self.taken == 128:
                self.more()
        say(label, value=event)

    def more(self):
        if self.taken and FAULT != "more":
            self.write({"op": "more", "n": self.taken})
        self.taken = 0


def say(label, **rest):
    print(json.dumps({"saw": label, **rest}), flush=True)


client = None
for line in sys.stdin:
    told = json.loads(line)
    label = told.get("as")
    if told["do"] == "connect":
        client = Client(told["name"])
    elif told["do"] == "self":
        say(label, value=client.session["pid"])
    elif told["do"] == "request":
        client.ask(label, {"op": told["op"], **told.get("fields", {})})
    elif told["do"] == "call":
        client.ask(label, {"op": "call", "to": told["to"]}, told["body"])
    elif told["do"] == "receive":
        threading.Thread(target=client.receive, args=(label,), daemon=True).start()
os._exit(0)
